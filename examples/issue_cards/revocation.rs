//! The revocation list, judged by a program that is not ours.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use cardwright::IssuedCertificate;
use cardwright::adapters::local_ca::RevocationList;
use chrono::{DateTime, Utc};

/// A certificate to be verified, under the name of its file, and what is to be said of it.
pub(crate) struct Sample {
    pub(crate) file: &'static str,
    pub(crate) what: &'static str,
    pub(crate) certificate: IssuedCertificate,
    pub(crate) good: bool,
}

/// Writes the list and the samples to the folder, and has `openssl` verify them, as of the office's time.
pub(crate) fn verify(
    folder: &Path,
    list: &RevocationList,
    entries: usize,
    samples: &[Sample],
    now: DateTime<Utc>,
) -> Result<(), Box<dyn Error>> {
    fs::write(folder.join("cards.crl"), &list.der)?;
    fs::write(folder.join("cards.crl.pem"), &list.pem)?;
    for sample in samples {
        fs::write(folder.join(sample.file), &sample.certificate.pem)?;
    }

    let look = ["crl", "-in", "cards.crl.pem", "-CAfile", "ca.pem", "-verify", "-noout", "-text"];
    let Some((good, words)) = openssl(folder, &look)? else {
        println!("  not verified: there is no openssl program here");
        return Ok(());
    };
    println!("  $ openssl {}", look.join(" "));
    let found = words.lines().filter(|line| line.trim_start().starts_with("Serial Number:")).count();
    let verdict = words.lines().find(|line| line.contains("verify")).unwrap_or_default();
    println!("    {verdict}; it counts {found} entries");
    if !good || verdict != "verify OK" || found != entries {
        return Err(format!("openssl is not content with the list of {entries} entries").into());
    }

    let at = now.timestamp().to_string();
    for Sample { file, what, good, .. } in samples {
        let check = ["verify", "-attime", &at, "-CAfile", "ca.pem", "-crl_check", "-CRLfile", "cards.crl.pem", file];
        println!("  {what}\n  $ openssl {}", check.join(" "));
        let (found, words) = openssl(folder, &check)?.ok_or("the openssl program is gone")?;
        let verdict = words.lines().find(|line| line.contains("lookup:") || line.ends_with(": OK"));
        println!("    {}", verdict.unwrap_or(&words));
        if found != *good || (!*good && !words.contains("certificate revoked")) {
            return Err(format!("openssl should say something else of {what}").into());
        }
    }
    Ok(())
}

/// Whether it was content, and what it said; `None` if there is no such program.
fn openssl(folder: &Path, arguments: &[&str]) -> Result<Option<(bool, String)>, Box<dyn Error>> {
    match Command::new("openssl").args(arguments).current_dir(folder).output() {
        Ok(output) => {
            let words = [output.stdout, output.stderr].concat();
            Ok(Some((output.status.success(), String::from_utf8_lossy(&words).into_owned())))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
