//! The examples that run on: two web services on one store, and two workers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use cardwright::adapters::postgres::{PostgresRepository, SchemaName};
use cardwright::adapters::sqlite::SqliteRepository;
use cardwright::host::{CardQuery, CardRepository};
use cardwright::{CardState, Order};
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use tempfile::TempDir;

use crate::database::{Database, runtime};

/// A program of the examples, which is stopped in the end.
struct Program {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Program {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(example(name))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("examples are built before the tests are run");
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, said }
    }

    /// The next line with this in it.
    fn line(&mut self, with: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).expect("it prints text") > 0, "it ended without {with:?}");
            if line.contains(with) {
                return line.trim_end().to_owned();
            }
        }
    }

    /// Interrupts it as Ctrl-C does; what it says until its end, which must be a good one.
    fn interrupt(mut self) -> String {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().expect("there is kill").success());
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).expect("it prints text");
        assert!(self.child.wait().expect("it is ours").success(), "{rest}");
        rest
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let folder = test.parent().and_then(Path::parent).expect("it is two folders down");
    folder.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// Where the instances of an example keep their cards.
enum Place {
    File(TempDir),
    Server(Box<Database>),
}

impl Place {
    fn file() -> Self {
        Self::File(tempfile::tempdir().expect("a folder"))
    }

    fn server() -> Self {
        Self::Server(Box::new(Database::apart()))
    }

    /// As an argument of the examples.
    fn address(&self) -> String {
        match self {
            Self::File(folder) => folder.path().join("office.db").to_str().expect("a plain path").to_owned(),
            Self::Server(database) => database.options.to_url_lossy().to_string(),
        }
    }

    fn store(&self) -> Box<dyn CardRepository> {
        match self {
            Self::File(_) => Box::new(SqliteRepository::open(self.address()).expect("the file opens")),
            Self::Server(database) => {
                Box::new(PostgresRepository::new(database.pool(), SchemaName::new("cardwright").expect("a name")))
            }
        }
    }
}

/// One web service, by its address.
struct Service(Program, String);

impl Service {
    fn start(place: &Place) -> Self {
        let mut program = Program::start("web_service", &[&place.address(), "0"]);
        let line = program.line("listening on http://");
        Self(program, line.replace("listening on http://", ""))
    }

    /// Status, kind of content, and content.
    fn call(&self, method: &str, path: &str, user: &str, body: &Value) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.1).expect("it listens");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!("{method} {path} HTTP/1.0\r\nx-user: {user}\r\ncontent-type: application/json\r\n");
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, content) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
        (status, kind.to_owned(), content.to_owned())
    }

    fn json(&self, method: &str, path: &str, user: &str, body: &Value) -> Value {
        let (status, _, content) = self.call(method, path, user, body);
        assert_eq!(status, 200, "{method} {path}: {content}");
        serde_json::from_str(&content).expect("it is JSON")
    }

    /// The status of a problem, which must be told as one.
    fn problem(&self, method: &str, path: &str, user: &str, body: &Value) -> u16 {
        let (status, kind, content) = self.call(method, path, user, body);
        let told: Value = serde_json::from_str(&content).unwrap_or_else(|_| panic!("{status} {kind}: {content}"));
        assert_eq!((kind.as_str(), &told["status"]), ("application/problem+json", &json!(status)), "{content}");
        assert!(told["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{content}");
        status
    }
}

const ORDER: &str = "/runs/CardsAddonExtProdBoProcOrderMultiple";

fn people(ids: &[&str]) -> Value {
    json!({"selection": {"ids": ids.iter().map(|id| json!({"user": id})).collect::<Vec<_>>()}})
}

#[test]
fn a_run_that_one_web_service_has_opened_another_finishes() {
    finished_by_another(&Place::file());
}

#[test]
fn a_run_that_one_web_service_has_opened_another_finishes_on_postgres() {
    finished_by_another(&Place::server());
}

fn finished_by_another(place: &Place) {
    let (one, two) = (Service::start(place), Service::start(place));
    let run = one.json("POST", ORDER, "olga", &Value::Null);
    let many: Vec<String> = (101..=120).map(|number| format!("p{number}")).collect();
    let wanted: Vec<&str> = ["p1", "p2", "p500", "nobody"].into_iter().chain(many.iter().map(String::as_str)).collect();
    let wanted = people(&wanted);
    let (status, kind, events) = two.call("POST", "/work", "olga", &json!([run, wanted]));
    assert_eq!((status, kind.as_str()), (200, "text/event-stream"));
    let data: Vec<Value> = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).expect("it is JSON"))
        .collect();
    assert_eq!(data.len(), 3, "two chunks and the report: {events}");
    assert_eq!((&data[0]["done"], &data[0]["of"]), (&json!(20), &json!(24)));
    assert_eq!((&data[1]["done"], &data[1]["of"]), (&json!(24), &json!(24)));
    assert_eq!((&data[2]["done"], &data[2]["refused"]), (&json!({"requested": 23}), &json!({"not_found": 1})));

    // Asked again, the first one finishes the same run, in which all is done.
    let (_, _, events) = one.call("POST", "/work", "olga", &json!([run, wanted]));
    assert!(events.contains(r#""done_earlier":23"#), "{events}");

    // One is withdrawn, and one aborted between approval and bureau; two are approved and sent, and the others stay or are sent.
    let requested = one.json("GET", "/cards?state=requested", "olga", &Value::Null);
    let of = |holder: &str| {
        let mut cards = requested.as_array().into_iter().flatten();
        cards.find(|card| card["holder"] == json!(holder)).expect("it is requested")
    };
    let request = |holder: &str| json!({"request": of(holder)["request"]});
    let withdrawn = json!({"selection": {"ids": [request("p2")]}});
    let outcome = two.json("POST", "/do/CardsProcAbortRequest", "olga", &withdrawn);
    assert_eq!(outcome[0][1]["done"]["state"], json!("aborted"), "{outcome}");
    let yes = |requests: &[Value]| json!({"selection": {"ids": requests}, "values": {"decision": "approve"}});
    let aborted = many.iter().find(|holder| {
        one.json("POST", "/do/CardsProcApproval", "anton", &yes(&[request(holder)]));
        let abort = json!({"selection": {"ids": [{"card": of(holder)["id"]}]}});
        let (status, _, content) = two.call("POST", "/do/CardsAddonExtProdProcAbort", "olga", &abort);
        assert!(status == 409 || content.contains(r#""state":"aborted""#), "it is sent or aborted: {content}");
        status == 200
    });
    aborted.expect("the workers do not look all the time");
    let yes = yes(&["p1", "p500"].map(request));
    assert_eq!(two.problem("POST", "/do/CardsProcApproval", "olga", &yes), 403, "who orders does not approve");
    assert_eq!(two.json("POST", "/do/CardsProcApproval", "anton", &yes).as_array().map(Vec::len), Some(2));
    let until = Instant::now() + Duration::from_secs(60);
    let count = |path: &str| one.json("GET", path, "olga", &Value::Null).as_array().map_or(0, Vec::len);
    let is_produced = |holder: &str| {
        let produced = one.json("GET", "/cards?state=produced", "olga", &Value::Null);
        produced.as_array().into_iter().flatten().any(|card| card["holder"] == json!(holder))
    };
    while !is_produced("p1") || count("/doubts") < 1 {
        let health = || one.json("GET", "/health", "", &Value::Null);
        assert!(Instant::now() < until, "the workers of the two do what is due: {}", health());
        std::thread::sleep(Duration::from_millis(200));
    }

    // The answer to one was lost: nobody guesses, a person settles it.
    let job = one.json("GET", "/doubts", "petra", &Value::Null)[0].clone();
    let doubt = format!("{}/{}", job["id"].as_str().expect("an id"), job["doubts"]);
    let values = json!({"doubt": doubt, "resolution": "give up", "reason": "they have lost it"});
    let settled = json!({"selection": {"ids": [{"job": job["id"]}]}, "values": values});
    assert_eq!(one.problem("POST", "/do/CardsProcResolveDoubt", "olga", &settled), 403);
    let outcome = one.json("POST", "/do/CardsProcResolveDoubt", "petra", &settled);
    assert_eq!(outcome[0][1]["done"]["state"], json!("failed"), "{outcome}");
    assert_eq!(one.problem("POST", "/do/CardsProcResolveDoubt", "petra", &settled), 409, "it is settled");
    assert_eq!((one.0.interrupt(), two.0.interrupt()), (String::new(), String::new()));
}

#[test]
fn a_web_service_tells_problems_by_their_status() {
    let place = Place::file();
    let service = Service::start(&place);
    let run = service.json("POST", ORDER, "olga", &Value::Null);
    let mut altered = run.clone();
    altered["actor"]["roles"] = json!(["card_production_administrator"]);
    altered["actor"]["id"] = json!("anton");
    altered["actor"]["person"] = json!("anton");
    altered["actor"]["roles"] = json!(["approver"]);
    let one = people(&["p1"]);
    let unknown = json!({"selection": {"ids": [{"card": "00000000-0000-0000-0000-000000000001"}]}});
    for (status, method, path, user, body) in [
        (401, "POST", ORDER, "mallory", Value::Null),
        (401, "GET", "/cards?state=requested", "mallory", Value::Null),
        (401, "GET", "/doubts", "", Value::Null),
        (403, "POST", ORDER, "anton", Value::Null),
        (404, "POST", "/runs/CardsAddonExtProdBoProcOrderMulitple", "olga", Value::Null),
        (403, "POST", "/work", "anton", json!([run, one])),
        (409, "POST", "/work", "anton", json!([altered, one])),
        (422, "POST", "/work", "olga", json!([run, {"selection": "nothing"}])),
        (404, "POST", "/do/CardsAddonExtProdProcAbort", "olga", unknown),
        (409, "POST", "/do/TempCardsAddonExtProdProcOrder", "olga", json!({"values": {"amount": "1"}})),
    ] {
        assert_eq!(service.problem(method, path, user, &body), status, "{method} {path} as {user}");
    }
    // What the framework refuses is told as a problem too.
    for (status, method, path, body) in [
        (422, "POST", "/work", json!([1, 2])),
        (422, "POST", "/do/CardsProcApproval", json!({"selection": {"ids": [{"request": "no id"}]}})),
        (400, "GET", "/cards?state=unheard_of", Value::Null),
        (404, "GET", "/nowhere", Value::Null),
        (405, "GET", "/work", Value::Null),
    ] {
        assert_eq!(service.problem(method, path, "olga", &body), status, "{method} {path}");
    }
    // Of one user's two orders one is refused.
    service.json("POST", "/do/CardsAddonExtProdBoProcOrderMultiple", "olga", &one);
    let again = service.problem("POST", "/do/CardsAddonExtProdBoProcOrderMultiple", "olga", &one);
    assert_eq!(again, 409);
}

#[test]
fn two_workers_on_one_store_do_each_job_once() {
    done_once(&Place::file());
}

#[test]
fn two_workers_on_one_store_do_each_job_once_on_postgres() {
    done_once(&Place::server());
}

fn done_once(place: &Place) {
    let address = place.address();
    let mut once = Program::start("worker", &[&address, "--order", "3", "--once"]);
    assert_eq!(once.line("ordered"), r#"ordered: {"processing": 3}, refused: {}"#);
    let mut said = String::new();
    once.said.read_to_string(&mut said).expect("it prints text");
    assert!(once.child.wait().expect("it is ours").success());
    // One lane may have sent the orders, and another the messages.
    let sum = |what: &str| -> u32 {
        let key = format!("\"{what}\": ");
        said.split(&key).skip(1).filter_map(|rest| rest.split([',', '}']).next()?.parse::<u32>().ok()).sum()
    };
    assert_eq!((sum("ordered"), sum("done")), (3, 3), "{said}");

    let mut workers = [Program::start("worker", &[&address]), Program::start("worker", &[&address, "--order", "90"])];
    assert_eq!(workers[1].line("ordered"), r#"ordered: {"processing": 87}, refused: {OpenOrder: 3}"#);
    workers.iter_mut().for_each(|worker| assert!(!worker.line("working on").contains("://"), "it may hold a password"));
    let store = place.store();
    let until = Instant::now() + Duration::from_secs(60);
    let produced = || {
        let query = CardQuery { states: vec![CardState::Produced], ..CardQuery::default() };
        runtime().block_on(store.card_page(&query, None, 1000)).expect("cards can be read")
    };
    while produced().len() < 90 {
        assert!(Instant::now() < until, "{} of 90 cards are made", produced().len());
        std::thread::sleep(Duration::from_millis(200));
    }
    for worker in workers {
        assert!(worker.interrupt().ends_with("stopped: Finished\n"));
    }
    for card in produced() {
        let earlier = card.order.map(|Order { earlier, .. }| earlier);
        assert_eq!(earlier, Some(Vec::new()), "ordered once");
    }
}
