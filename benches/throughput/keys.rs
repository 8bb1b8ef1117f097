//! What keys and signatures cost by themselves, with the embedded CA: in the runs they are simulated.

use std::sync::Arc;
use std::time::Instant;

use cardwright::Secret;
use cardwright::adapters::local_ca::{CaIdentity, LocalCa, MemoryJournal};
use cardwright::adapters::memory::ManualClock;
use cardwright::host::{CertificateAuthority as _, CertificateOrder, Clock as _, IssueOutcome};
use chrono::TimeDelta;
use futures::executor::block_on;
use rcgen::{CertificateParams, KeyPair};

use crate::office::Fallible;

/// Prints what so many certificates cost: with a key that the CA makes, and from a request with a key of the card.
pub(crate) fn show(certificates: usize, clock: ManualClock) -> Fallible {
    let now = clock.now();
    let root = CaIdentity::self_signed("Bench CA", now, now + TimeDelta::days(3650))?;
    let ca = block_on(
        LocalCa::builder(root).sealing_key(Secret::new(vec![7; 32])).open(MemoryJournal::new(), Arc::new(clock)),
    )?;
    let request = CertificateParams::default().serialize_request(&KeyPair::generate()?)?.pem()?;
    let each = |what: &str, request: Option<&String>| -> Fallible<f64> {
        let begun = Instant::now();
        for number in 0..certificates {
            let key = format!("{what}-{number}");
            let mut order = CertificateOrder::new(key, "authentication", "Person 1", now + TimeDelta::days(1000));
            order.upn = Some("u1@corp.example.com".to_owned());
            order.request = request.cloned();
            match block_on(ca.issue(&order)) {
                IssueOutcome::Issued(_) => {}
                other => return Err(format!("the CA issues: {other:?}").into()),
            }
        }
        Ok(begun.elapsed().as_secs_f64() * 1e6 / certificates as f64)
    };
    let (made, requested) = (each("made", None)?, each("requested", Some(&request))?);
    println!(
        "Not in these figures, with the embedded CA (P-256, one thread): a certificate from a request, checked and signed, \
         {requested:.0} us; with a key that the CA makes {made:.0} us."
    );
    Ok(())
}
