//! The corpus of the fuzz targets, played as it is and with a few bytes changed at random: see `fuzz/`.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the same file is a library there")]
mod bodies;

/// Plays every file of a corpus, then as many changed ones as are wanted.
fn play(target: &str, body: fn(&[u8]), changed: u32) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("a corpus").map(|file| file.expect("readable").path()).collect();
    files.sort();
    assert!(files.len() >= 5, "a corpus of {} files", files.len());
    let contents: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("readable")).collect();
    for (file, content) in files.iter().zip(&contents) {
        // Which file it was, should it panic.
        println!("{target}: {}", file.file_name().unwrap_or_default().display());
        body(content);
    }
    let change = (any::<Index>(), 0..8_usize, prop::collection::vec(any::<u8>(), 0..6));
    let strategy = (prop::sample::select(contents), prop::collection::vec(change, 0..4));
    let config = ProptestConfig { cases: changed, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&strategy, |(mut bytes, changes)| {
        for (place, removed, added) in changes {
            let from = place.index(bytes.len() + 1);
            let to = (from + removed).min(bytes.len());
            bytes.splice(from..to, added);
        }
        body(&bytes);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{target}: {error}"));
}

#[test]
fn scripts_load_or_are_refused_with_words() {
    play("scripts", bodies::scripts, 100);
}

#[test]
fn whatever_the_bureau_says_cards_move_forward_only() {
    play("statuses", bodies::statuses, 200);
}

#[test]
fn answers_get_a_typed_error_or_an_outcome() {
    play("answers", bodies::answers, 300);
}

#[test]
fn what_is_read_can_be_written_and_read_again() {
    play("values", bodies::values, 3000);
}
