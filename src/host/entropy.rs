/// Where the random bytes of PINs and PUKs come from. Every byte must be drawn afresh from a source that is fit for secrets;
/// only a simulation uses anything else. No test can tell, so there is no kit for it.
///
/// # Errors
/// When the source fails, what needs it is tried again later.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the slice.
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()>;
}

/// The system's secure source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        getrandom::fill(bytes).map_err(std::io::Error::other)
    }
}
