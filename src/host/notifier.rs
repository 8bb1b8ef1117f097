use async_trait::async_trait;

use crate::job::Message;

/// Sends messages to people. The words are the host's.
///
/// # Contract
/// - **`same_id_is_the_same_message`**: a message may be given again under the same [`Message::id`] after a crash; a
///   notifier that can, sends it once.
/// - **`recipient_is_the_hosts`**: roles and logins are turned into addresses by the notifier.
///
/// # Not required
/// Telling whether a message was read.
///
/// # Cancellation
/// A dropped call may or may not have sent; it is given again.
///
/// # Errors
/// All three outcomes are [`NotifyOutcome`].
#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    /// Sends a message.
    async fn send(&self, message: &Message) -> NotifyOutcome;
}

forward!(Notifier {
    async fn send(&self, message: &Message) -> NotifyOutcome;
});

/// Sends nothing and says so: for offices that tell nobody anything. Each message is refused, and its job keeps the reason.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMessages;

#[async_trait]
impl Notifier for NoMessages {
    async fn send(&self, _: &Message) -> NotifyOutcome {
        NotifyOutcome::Refused { reason: "this office sends no messages (NoMessages)".to_owned() }
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotifyOutcome {
    /// Handed to whoever delivers it.
    Sent,
    /// Will never be sent, such as to an address that does not exist; the reason is recorded.
    Refused {
        /// Why.
        reason: String,
    },
    /// Not for now: it is given again.
    Unavailable {
        /// Why.
        reason: String,
    },
}
