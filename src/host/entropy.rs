/// Where random bytes come from: PINs, PUKs and new run ids.
///
/// # Contract
/// - **`bytes_are_secret_and_unpredictable`**: every byte is drawn afresh from a source that is fit for secrets. Only a
///   simulation uses anything else.
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
