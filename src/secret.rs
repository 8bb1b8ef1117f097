//! Secrets: values that are handed on once, and never stored, shown or logged.

use std::fmt;

use zeroize::Zeroizing;

/// A PIN, a PUK or a private key on its way to a card. It is wiped from memory when it is dropped, shows nothing in `Debug`,
/// and can be neither copied nor stored.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A secret of these bytes. The vector is taken over, not copied; wipe what it was made from.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for whoever puts them on the card or delivers them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// So many decimal digits, each as likely as any other, none of them trivial: not all equal, not ascending or descending
    /// by one. `random` fills a slice with random bytes; `None` if what it gives is not random.
    ///
    /// # Errors
    /// What `random` says.
    pub(crate) fn digits<E>(
        count: usize,
        mut random: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Option<Self>, E> {
        let mut digits = Zeroizing::new(Vec::with_capacity(count));
        let mut bytes = Zeroizing::new([0_u8; 32]);
        for _ in 0..1000 {
            random(&mut *bytes)?;
            // 250 is the greatest multiple of ten in a byte: what is above would make small digits likelier.
            let fair = bytes.iter().filter(|byte| **byte < 250).map(|byte| b'0' + byte % 10);
            let missing = count - digits.len();
            digits.extend(fair.take(missing));
            if digits.len() < count {
                continue;
            }
            if !is_trivial(&digits) {
                return Ok(Some(Self(digits)));
            }
            digits.clear();
        }
        Ok(None)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Whether each digit follows from the one before by the same step of 0, 1 or -1.
fn is_trivial(digits: &[u8]) -> bool {
    [0, 1, -1].iter().any(|step| digits.windows(2).all(|pair| i16::from(pair[1]) - i16::from(pair[0]) == *step))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn trivial_digits_are_recognised() {
        for trivial in ["0000", "1234", "9876", "456789", "3210"] {
            assert!(is_trivial(trivial.as_bytes()), "{trivial}");
        }
        for good in ["0001", "1235", "9875", "1357", "8901", "1212"] {
            assert!(!is_trivial(good.as_bytes()), "{good}");
        }
    }

    #[test]
    fn digits_that_come_out_trivial_are_drawn_again() {
        let mut draws = 0;
        let pin = Secret::digits(4, |bytes| {
            draws += 1;
            bytes.fill(if draws == 1 { 7 } else { 0 });
            bytes[1] = if draws == 1 { 7 } else { 13 };
            Ok::<_, Infallible>(())
        });
        assert_eq!(pin.map(|pin| pin.map(|pin| pin.expose().to_vec())), Ok(Some(b"0300".to_vec())));
        assert_eq!(draws, 2);
    }

    #[test]
    fn bytes_that_are_not_random_give_no_digits() {
        for byte in [0, 7, 255] {
            let digits = Secret::digits(6, |bytes| {
                bytes.fill(byte);
                Ok::<_, Infallible>(())
            });
            assert!(matches!(digits, Ok(None)), "{byte}");
        }
    }

    #[test]
    fn all_digits_are_equally_likely() {
        let mut counts = [0_u32; 10];
        let mut next = 0_u8;
        for _ in 0..10_000 {
            let digits = Secret::digits(12, |bytes| {
                for byte in bytes {
                    *byte = next;
                    next = next.wrapping_add(1);
                }
                Ok::<_, Infallible>(())
            });
            let digits = digits.unwrap_or_default();
            for digit in digits.as_ref().map_or(&[][..], Secret::expose) {
                counts[usize::from(digit - b'0')] += 1;
            }
        }
        let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
        assert!(least > Some(10_000) && most < Some(14_000), "{counts:?}");
    }

    #[test]
    fn debug_output_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new(b"482913".to_vec())), "Secret(…)");
    }
}
