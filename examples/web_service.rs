//! A web service around an engine: open a run and answer it with progress as server-sent events, list, approve, abort, settle doubts.
//! Refusals and errors are `application/problem+json`. A run that one instance on a store has opened, another finishes.
//!
//! ```text
//! cargo run --release --example web_service -- office.db 8080          (or a postgres:// address)
//!
//! curl -s localhost:8080/runs/CardsAddonExtProdBoProcOrderMultiple -H 'x-user: olga' -X POST >run.json
//! jq '[., {selection: {ids: [{user: "p1"}, {user: "p2"}, {user: "p500"}, {user: "nobody"}]}}]' run.json | curl -sN localhost:8080/work -H 'x-user: olga' --json @-
//! curl -s 'localhost:8080/cards?state=requested' -H 'x-user: olga'      (in a new store, three; withdraw p1's, approve the others)
//! curl -s localhost:8080/do/CardsProcAbortRequest -H 'x-user: olga' --json '{"selection": {"ids": [{"request": "…"}]}}'
//! curl -s localhost:8080/do/CardsProcApproval -H 'x-user: anton' --json '{"selection": {"ids": [{"request": "…"}]}, "values": {"decision": "approve"}}'
//! curl -s localhost:8080/do/CardsAddonExtProdProcAbort -H 'x-user: olga' --json '{"selection": {"ids": [{"card": "…"}]}}'
//!     (p2's, right after the approval: soon it is sent, and the answer is 409)
//! curl -s localhost:8080/health; curl -s localhost:8080/doubts -H 'x-user: petra'       (seconds later: p500's, lost)
//! curl -s localhost:8080/do/CardsProcResolveDoubt -H 'x-user: petra' --json '{"selection": {"ids": [{"job": "…"}]},
//!     "values": {"doubt": "<id>/<doubts>", "resolution": "give up", "reason": "they have lost it"}}'
//! ```

#[path = "shared/mod.rs"]
mod shared;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::{StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response, Sse, sse::Event};
use axum::routing::{get, post};
use axum::{Json, Router, middleware::map_response};
use cardwright::host::CardQuery;
use cardwright::process::{Answer, ItemId, Outcome, Refusal, RefusalCode};
use cardwright::worker::{Health, Watch, Worker};
use cardwright::{Actor, Card, CardId, CardState, Engine, Error, Job, Role, Run};
use futures::Stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

type App = (Arc<Engine>, Watch);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (address, port) = (std::env::args().nth(1), std::env::args().nth(2));
    let (address, port) = (address.unwrap_or("web_service.db".to_owned()), port.map_or(Ok(8080), |port| port.parse())?);
    let engine = Arc::new(shared::office(shared::store(&address).await?, &format!("web service {port}"), true).await?);
    let worker = Worker::new(Arc::clone(&engine), shared::service()?);
    let app = Router::new()
        .route("/runs/{process}", post(open))
        .route("/work", post(work))
        .route("/do/{process}", post(do_at_once))
        .route("/cards", get(cards))
        .route("/doubts", get(doubts))
        .route("/health", get(health))
        .layer(map_response(told))
        .with_state((engine, worker.watch()));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service =
        axum::serve(listener, app).with_graceful_shutdown(async move { drop((tokio::signal::ctrl_c().await, stop)) });
    let (served, _) = tokio::join!(service.into_future(), worker.run(async { drop(stopped.await) }));
    Ok(served?)
}

/// Who calls. A service looks at a session or a token here; this one believes a header.
struct Caller(Arc<Engine>, Actor);

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let login = parts.headers.get("x-user").and_then(|login| login.to_str().ok()).unwrap_or_default();
        let role = match login {
            "olga" => Role::Operator,
            "anton" => Role::Approver,
            "petra" => Role::CardProductionAdministrator,
            _ => return Err(Problem::new(StatusCode::UNAUTHORIZED, "who", "x-user must be olga, anton or petra")),
        };
        let actor = shared::actor(login, role).map_err(|error| Problem::new(StatusCode::UNAUTHORIZED, "who", error))?;
        Ok(Self(Arc::clone(&app.0), actor))
    }
}

async fn open(Caller(engine, actor): Caller, Path(process): Path<String>) -> Result<Json<Run>, Problem> {
    Ok(Json(engine.open(&process, &actor).await?))
}

/// The work of a run, chunk by chunk. Whoever goes away stops it there; the same run and answer, sent again, finish the rest.
async fn work(
    Caller(engine, actor): Caller,
    Json((run, answer)): Json<(Run, Answer)>,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, Problem> {
    // The run is sealed, but for the words of the form: it comes back as it was handed out, and must come back from whom that was.
    if run.actor != actor {
        return Err(Problem::new(StatusCode::FORBIDDEN, "not permitted", "somebody else has opened this run"));
    }
    engine.next(&run, answer.clone()).await?; // A wrong answer is refused before there is a stream.
    let (events, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let event = |name, data: Value| Event::default().event(name).json_data(data);
        let mut execution = match engine.next(&run, answer).await {
            Ok(execution) => execution,
            Err(error) => return drop(events.send(event("problem", Problem::from(error).1)).await),
        };
        while let Ok(Some(outcomes)) = execution.next_chunk().await {
            let progress = execution.progress();
            let data = json!({"outcomes": outcomes, "done": progress.items, "of": progress.total});
            let Ok(()) = events.send(event("chunk", data)).await else { return };
        }
        drop(events.send(event("report", json!(execution.report()))).await);
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    Ok(Sse::new(stream))
}

/// Opens, answers and finishes at once. One item that is refused is a problem; of several, each has its outcome.
async fn do_at_once(
    Caller(engine, actor): Caller,
    Path(process): Path<String>,
    Json(answer): Json<Answer>,
) -> Result<Json<Vec<(ItemId, Outcome)>>, Problem> {
    let run = engine.open(&process, &actor).await?;
    let mut execution = engine.next(&run, answer).await?;
    let mut all = Vec::new();
    while let Some(outcomes) = execution.next_chunk().await? {
        all.extend(outcomes);
    }
    if let [(_, Outcome::Refused(refusal))] = all.as_slice() { Err(refusal.clone().into()) } else { Ok(Json(all)) }
}

#[derive(Deserialize)]
struct Page {
    state: CardState,
    after: Option<CardId>,
}

async fn cards(Caller(engine, _): Caller, Query(page): Query<Page>) -> Result<Json<Vec<Card>>, Problem> {
    let query = CardQuery { states: vec![page.state], ..CardQuery::default() };
    Ok(Json(engine.card_page(&query, page.after, 50).await?))
}

async fn doubts(Caller(engine, _): Caller) -> Result<Json<Vec<Job>>, Problem> {
    Ok(Json(engine.doubts(None, 50).await?))
}

async fn health(State((_, watch)): State<App>) -> Result<Json<Health>, Problem> {
    Ok(Json(watch.health().await?))
}

/// A problem as RFC 9457 has it.
struct Problem(StatusCode, Value);

impl Problem {
    fn new(status: StatusCode, title: &str, detail: impl ToString) -> Self {
        Self(status, json!({"status": status.as_u16(), "title": title, "detail": detail.to_string()}))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, title) = match &error {
            Error::Process(_) => (StatusCode::NOT_FOUND, "no such process"),
            Error::NotPermitted { .. } => (StatusCode::FORBIDDEN, "not permitted"),
            Error::Answer(_) => (StatusCode::UNPROCESSABLE_ENTITY, "the answer does not fit the form"),
            Error::Disabled { .. } | Error::RunOutdated { .. } | Error::RunTaken { .. } => {
                (StatusCode::CONFLICT, "not now")
            }
            error if error.is_transient() => (StatusCode::SERVICE_UNAVAILABLE, "try again later"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        Self::new(status, title, error)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.code {
            RefusalCode::NotFound => StatusCode::NOT_FOUND,
            RefusalCode::NotPermitted | RefusalCode::Person => StatusCode::FORBIDDEN,
            RefusalCode::Store | RefusalCode::HeldBack => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        Self::new(status, &refusal.code.to_string(), refusal.reason)
    }
}

/// What axum refuses by itself, such as broken JSON, told as a problem too.
async fn told(response: Response) -> Response {
    let (status, kind) = (response.status(), response.headers().get(header::CONTENT_TYPE));
    if !status.is_client_error() || kind.is_some_and(|kind| kind == "application/problem+json") {
        return response;
    }
    let words = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap_or_default();
    Problem::new(status, "not understood", format!("{status} {}", String::from_utf8_lossy(&words))).into_response()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, [(header::CONTENT_TYPE, "application/problem+json")], self.1.to_string()).into_response()
    }
}
