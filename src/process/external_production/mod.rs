//! Cards made by the bureau: ordering, following, taking back and repeating orders.

mod abort;
pub(crate) mod order_job;
mod order_multiple;
mod repeat_order;
mod sync;
mod update;

pub(crate) use abort::Abort;
pub(crate) use order_multiple::OrderMultiple;
pub(crate) use repeat_order::RepeatOrder;
pub(crate) use sync::Sync;
pub(crate) use update::Update;

use super::{Field, FieldKind, HouseRules, Plan, PlanContext, Refusal, RefusalCode};
use crate::card::{Busy, Card, CardState, Order};
use crate::change_set::ChangeSet;
use crate::history::Why;
use crate::id::{CardId, JobId, SymbolicName, UserId};
use crate::job::{Job, Task};
use crate::options::{OptionKey, ResolvedOptions};
use crate::user::User;

/// The package as the source product names it.
pub(crate) const PACKAGE: &str = "Cards add-on External production";

/// The form field in which the production type is chosen.
pub(crate) const PRODUCTION_TYPE: &str = "productionType";

/// A symbolic name that is known to be well-formed, since it stands in the code.
pub(crate) fn known_name(name: &'static str) -> SymbolicName {
    SymbolicName::new(name).expect("names in the code are well-formed; a test reads them all")
}

/// The key that a user's open order holds.
pub(crate) fn open_order_key(user: &UserId) -> String {
    format!("open-order/{user}")
}

/// Refuses a user who may not have cards.
pub(crate) fn require_active(user: &User) -> Result<(), Refusal> {
    if user.is_active() {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::UserNotActive,
        format!("user {} is {}, only active users get cards", user.id, user.state),
    ))
}

/// Refuses an order that nobody could take.
pub(crate) fn check_order(card: &Card, context: &PlanContext<'_>) -> Result<(), Refusal> {
    if !context.rules.equipment.bureau {
        return Err(Refusal::new(RefusalCode::NotEquipped, "this office has no card bureau"));
    }
    context.rules.check_order(card)
}

/// Refuses a second open order, unless several are allowed.
pub(crate) fn require_no_open_order(user: &UserId, open: &[CardId], several_allowed: bool) -> Result<(), Refusal> {
    match open.first() {
        Some(card) if !several_allowed => Err(Refusal::new(
            RefusalCode::OpenOrder,
            format!(
                "user {user} already has an open card order: card {card} is requested, processing, ordered, in production or produced"
            ),
        )),
        _ => Ok(()),
    }
}

/// The field for the production type, with the names that the option allows; the first is preset.
pub(crate) fn production_type_field(options: &ResolvedOptions, key: OptionKey<Vec<String>>) -> Vec<Field> {
    let offered = options.get(key).unwrap_or_default();
    let Some(first) = offered.first().cloned() else { return Vec::new() };
    vec![Field::required(PRODUCTION_TYPE, "Production type", FieldKind::Choice(offered)).preset(first)]
}

/// The production type chosen in the form, or the preset of this item; it must be among those allowed for the item.
pub(crate) fn chosen_production_type(
    context: &PlanContext<'_>,
    key: OptionKey<Vec<String>>,
) -> Result<String, Refusal> {
    let offered = context.option(key)?;
    let chosen = match context.answer(PRODUCTION_TYPE) {
        "" => offered.first().cloned().unwrap_or_default(),
        chosen => chosen.to_owned(),
    };
    if !offered.contains(&chosen) {
        return Err(Refusal::new(
            RefusalCode::ProductionType,
            format!("production type `{chosen}` is not offered here; offered are {}", offered.join(", ")),
        ));
    }
    Ok(chosen)
}

/// Decides the order of a card: checks what the bureau needs, moves the card to processing, and owes the bureau the order.
/// If the order is not queued, the same run places it.
pub(crate) fn decide_order(
    mut changes: ChangeSet,
    mut card: Card,
    why: Why<'_>,
    queued: bool,
    notify_holder: bool,
    item: &str,
    context: &PlanContext<'_>,
) -> Result<Plan, Refusal> {
    check_order(&card, context)?;
    let job = Job::new(
        JobId::derive(context.run, item, "place order"),
        Task::PlaceOrder { notify_holder, queued },
        Some(card.id),
        &context.stamp,
    );
    let mut order = Order::decided(job.id);
    if let Some(before) = card.order.take() {
        order.earlier = before.earlier;
        order.earlier.extend(before.order_id);
    }
    card.order = Some(order);
    card.failure = None;
    card.busy = Some(Busy { job: job.id, since: context.stamp.at, in_doubt: false });
    changes.move_card(&mut card, CardState::Processing, &context.stamp, why)?;
    let place_now = (!queued).then_some(job.id);
    changes.jobs.push(job);
    let plan = Plan::card(changes, card);
    Ok(match place_now {
        Some(job) => plan.then_perform(job),
        None => plan,
    })
}

/// Until when a card made now is valid.
pub(crate) fn validity(context: &PlanContext<'_>) -> Result<Option<chrono::DateTime<chrono::Utc>>, Refusal> {
    let days = context.option(crate::options::VALIDITY_DAYS)?;
    Ok(context.stamp.at.checked_add_days(chrono::Days::new(u64::from(days))))
}

/// Copies the user's data onto the card.
pub(crate) fn copy_user(user: &User, card: &mut Card, rules: &HouseRules) -> Result<(), Refusal> {
    (rules.user_to_card.copy(&user.attributes, card))
        .map_err(|error| Refusal::new(RefusalCode::CardElement, format!("user {}: {error}", user.id)))
}
