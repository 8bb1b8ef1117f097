//! The rules of the house that a compiler does not hold: who may use what, what stands nowhere, and the exact names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use cardwright::CardState;
use cardwright::process::{Component, ProcessRegistry, Slot};
use serde_json::Value;

// ---- the source as text ----

/// One source file: its path below `src`, and its code without comments.
struct Source {
    path: String,
    code: String,
}

impl Source {
    fn is_noun(&self) -> bool {
        self.path.strip_suffix(".rs").is_some_and(|module| NOUNS.contains(&module))
    }

    fn is_in(&self, place: &str) -> bool {
        self.path.strip_prefix(place).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    /// Whether the word stands in the code, as a word of its own.
    fn names(&self, word: &str) -> bool {
        self.code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
    }

    /// Whether it says `super`, other than where its own tests take all that is in it.
    fn reaches_around(&self) -> bool {
        let (own, tests) = self.code.split_once("#[cfg(test)]\nmod tests {\n").unwrap_or((&self.code, ""));
        let names = |code: &str| Self { path: String::new(), code: code.to_owned() }.names("super");
        names(own) || names(&tests.replacen("use super::*;", "", 1))
    }

    /// What comes after each occurrence of a text, on one line.
    fn after(&self, text: &str) -> Vec<String> {
        let dense: String = self.code.split_whitespace().collect::<Vec<_>>().join(" ");
        dense.split(text).skip(1).map(str::to_owned).collect()
    }

    /// The word before each occurrence of a text.
    fn before(&self, text: &str) -> Vec<String> {
        let parts: Vec<&str> = self.code.split(text).collect();
        let word = |part: &&str| {
            let start = part.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
            part[start..].to_owned()
        };
        parts[..parts.len() - 1].iter().map(word).collect()
    }

    /// What the file uses of its own crate: (module, item), for each item of a list; an empty item for a whole module.
    fn uses(&self) -> Vec<(String, String)> {
        self.after("crate::").iter().flat_map(|rest| Self::items(rest)).collect()
    }

    /// What the file makes public of its modules: (module, item).
    fn exports(&self) -> Vec<(String, String)> {
        self.after("pub use ").iter().flat_map(|rest| Self::items(rest)).collect()
    }

    /// Reads `module::item` or `module::{item, item}`.
    fn items(rest: &str) -> Vec<(String, String)> {
        fn word(text: &str) -> &str {
            &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
        }
        let module = word(rest);
        let items = match rest[module.len()..].strip_prefix("::") {
            Some(list) if list.starts_with('{') => list[1..].split('}').next().unwrap_or_default(),
            Some(item) => word(item),
            None => "",
        };
        let items = items.trim().trim_end_matches(',').split(',').map(str::trim);
        items.map(|item| (module.to_owned(), item.to_owned())).collect()
    }
}

const NOUNS: [&str; 14] = [
    "id",
    "actor",
    "state_graph",
    "card",
    "certificate",
    "user",
    "approval",
    "card_number",
    "production_type",
    "production",
    "secret",
    "history",
    "job",
    "change_set",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let root = root().join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let sources: Vec<_> = files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Source {
            code: without_comments(&fs::read_to_string(&path).expect("source is readable")),
            path: relative(&path, &root),
        })
        .collect();
    assert!(sources.len() > 40, "the source is all there");
    for noun in NOUNS {
        assert!(sources.iter().any(|source| source.path == format!("{noun}.rs")), "there is no noun `{noun}`");
    }
    sources
}

fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).expect("a path below").to_string_lossy().replace('\\', "/")
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target" && name != ".git") {
                walk(&path, files);
            }
        } else {
            files.push(path);
        }
    }
    files.sort();
}

/// The code without line comments; `//` within a text on one line stays.
fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let comment = line.match_indices("//").find(|(at, _)| line[..*at].matches('"').count().is_multiple_of(2));
        comment.map_or(line, |(at, _)| &line[..at]).to_owned()
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// Asserts that no file breaks a rule; names all that do.
fn assert_none(rule: &str, breaches: impl IntoIterator<Item = String>) {
    let breaches: Vec<_> = breaches.into_iter().collect();
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

// ---- who may use what ----

#[test]
fn nouns_and_processes_know_no_clock_no_chance_no_waiting_and_no_driver() {
    const ABSENT: [&str; 15] = [
        "async",
        "await",
        "async_trait",
        "futures",
        "tokio",
        "Instant",
        "SystemTime",
        "Clock",
        "new_v4",
        "new_v7",
        "rand",
        "getrandom",
        "rusqlite",
        "sqlx",
        "mlua",
    ];
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|source| source.is_noun() || source.is_in("process")) {
        breaches.extend(
            ABSENT.iter().filter(|word| source.names(word)).map(|word| format!("{} names `{word}`", source.path)),
        );
        for path in ["Utc::now", "Local::now", "std::fs", "std::net", "std::thread", "std::env"] {
            if source.code.contains(path) {
                breaches.push(format!("{} uses `{path}`", source.path));
            }
        }
    }
    assert_none("nouns and processes are pure", breaches);
}

#[test]
fn nouns_use_nouns_only() {
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|source| source.is_noun()) {
        for (module, item) in source.uses() {
            if !NOUNS.contains(&module.as_str()) {
                breaches.push(format!("{} uses crate::{module}::{item}", source.path));
            }
        }
        if source.reaches_around() {
            breaches.push(format!("{} reaches around by `super`", source.path));
        }
    }
    assert_none("nouns do not know processes, options, hosts or the engine", breaches);
}

#[test]
fn processes_use_nouns_options_and_little_else() {
    // Where, what, and why it may.
    let allowed = [
        ("process/form.rs", "host", "CardQuery", "a filter in a form is the query that the store gets: plain data"),
        ("process/form.rs", "host", "CertificateQuery", "as above"),
        ("process/form.rs", "host", "RequestQuery", "as above"),
        ("process/form.rs", "host", "UserFilter", "as above"),
        ("process/house_rules.rs", "host", "StatusMap", "what status texts mean is plain data that the host sets"),
        ("process/external_production/order_job.rs", "host", "Accepted", "the answer that is applied: plain data"),
        ("process/external_production/order_job.rs", "host", "OrderStatus", "as above"),
        ("process/cards/production.rs", "host", "Prepared", "what the personalizer gives is plain data"),
        ("process/external_production/order_job.rs", "host", "StatusMap", "as above"),
        ("process/cards/resolve_doubt.rs", "host", "Accepted", "a person gives the answer that the bureau did not"),
        ("process/registry.rs", "host", "JobPerformer", "a package brings the performers of its own jobs"),
        ("process/registry.rs", "engine", "SET_OPTIONS", "the name of an act that roles are given like a process"),
        ("process/registry.rs", "engine", "ENABLE_PROCESS", "as above"),
    ];
    let mut unused: BTreeSet<_> = allowed.iter().map(|(path, module, item, _)| (*path, *module, *item)).collect();
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|source| source.is_in("process")) {
        for (module, item) in source.uses() {
            let at_home = NOUNS.contains(&module.as_str()) || ["process", "options"].contains(&module.as_str());
            unused.retain(|(path, m, i)| (*path, *m, *i) != (&source.path, &module, &item));
            let excepted = allowed.iter().any(|(path, m, i, _)| (*path, *m, *i) == (&source.path, &module, &item));
            if !at_home && !excepted {
                breaches.push(format!("{} uses crate::{module}::{item}", source.path));
            }
        }
    }
    assert_none("processes do not know hosts, adapters or the engine", breaches);
    assert_none("an exception that nothing needs any more", unused.iter().map(|unused| format!("{unused:?}")));
}

#[test]
fn options_and_hosts_do_not_know_the_engine() {
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|source| source.is_in("options") || source.is_in("host")) {
        let forbidden: &[&str] =
            if source.is_in("options") { &["engine", "host", "process", "error"] } else { &["engine", "error"] };
        for (module, item) in source.uses() {
            if forbidden.contains(&module.as_str()) {
                breaches.push(format!("{} uses crate::{module}::{item}", source.path));
            }
        }
    }
    assert_none("arrows point one way", breaches);
}

#[test]
fn nothing_uses_adapters_or_the_conformance_kit() {
    let mut breaches = Vec::new();
    let sources = sources();
    let exported = sources.iter().find(|source| source.path == "lib.rs").expect("the crate has a root").exports();
    for source in sources {
        for place in ["adapters", "conformance"] {
            if !source.is_in(place) && source.uses().iter().any(|(module, _)| module == place) {
                breaches.push(format!("{} uses crate::{place}", source.path));
            }
        }
        let outside = source.is_in("adapters") || source.is_in("conformance");
        for (module, item) in source.uses() {
            let by_root = module.is_empty() || module.starts_with(char::is_uppercase);
            if by_root && !outside {
                breaches.push(format!("{} uses the crate by its root, where this test cannot follow", source.path));
            }
            // Like a host, they may only use what is public.
            let public = ["host", "options", "process", "adapters", "conformance"].contains(&module.as_str());
            if outside && !by_root && !public && !exported.contains(&(module.clone(), item.clone())) {
                breaches.push(format!("{} uses crate::{module}::{item}, which is not public", source.path));
            }
        }
    }
    assert_none("adapters and the kit are for hosts", breaches);
}

#[test]
fn each_driver_is_named_in_one_place() {
    let mut breaches = Vec::new();
    for source in sources() {
        if source.names("mlua") && source.path != "options/script.rs" {
            breaches.push(format!("{} names mlua", source.path));
        }
        if source.names("rusqlite") && !source.is_in("adapters/sqlite") {
            breaches.push(format!("{} names rusqlite", source.path));
        }
        if source.names("sqlx") && !source.is_in("adapters/postgres") {
            breaches.push(format!("{} names sqlx", source.path));
        }
        for driver in ["rcgen", "ring", "x509_parser", "fs4"] {
            if source.names(driver) && !source.is_in("adapters/local_ca") {
                breaches.push(format!("{} names {driver}", source.path));
            }
        }
    }
    assert_none(
        "mlua is for options/script.rs, rusqlite for adapters/sqlite, sqlx for adapters/postgres, the crates of the CA for adapters/local_ca",
        breaches,
    );
}

// ---- what stands nowhere ----

#[test]
fn nothing_in_the_library_panics_on_data_prints_or_hashes_for_order() {
    let mut breaches = Vec::new();
    for source in sources() {
        for text in [".unwrap()", "todo!", "unimplemented!", "dbg!", "print!(", "println!(", "eprintln!("] {
            if source.code.contains(text) {
                breaches.push(format!("{} has `{text}`", source.path));
            }
        }
        if source.names("unsafe") {
            breaches.push(format!("{} has `unsafe`", source.path));
        }
        for word in ["HashMap", "HashSet"] {
            if source.names(word) && !source.is_in("adapters") {
                breaches.push(format!("{} has `{word}`: decisions must not depend on its order", source.path));
            }
        }
    }
    assert_none("absent from src", breaches);
}

#[test]
fn states_change_in_the_transition_functions_only() {
    let owners = ["card.rs", "certificate.rs", "approval.rs"];
    let mut breaches = Vec::new();
    let mut seen = BTreeMap::new();
    for source in sources() {
        let owner = owners.contains(&source.path.as_str());
        for object in source.before(".transition(") {
            *seen.entry(object.clone()).or_insert(0) += 1;
            // A card is moved through `ChangeSet::move_card`, which also gives back what only an open order holds.
            let good = owner || source.path == "change_set.rs" || ["request", "certificate"].contains(&object.as_str());
            if !good {
                breaches.push(format!("{} has `{object}.transition(`", source.path));
            }
        }
        for object in source.before(".state = ") {
            // Jobs have no graph: their state says how far the engine is. A simulated outside has states of its own.
            if object != "job" && !source.is_in("adapters/simulator") {
                breaches.push(format!("{} has `{object}.state = `", source.path));
            }
        }
        let replaced = source.code.matches("&mut self.state").count();
        if replaced != usize::from(owner) {
            breaches.push(format!("{} takes `&mut self.state` {replaced} times", source.path));
        }
    }
    assert_none("one transition function for each object", breaches);
    assert!(seen.contains_key("card") && seen.contains_key("request"), "the test sees transitions: {seen:?}");
}

#[test]
fn secrets_are_named_by_few_and_can_be_neither_copied_stored_nor_compared() {
    // The engine draws them and hands them on; a CA makes keys; a personalizer takes both, and kits check the two.
    let places = ["lib.rs", "secret.rs", "host/card_personalizer.rs", "host/certificate_authority.rs"];
    let mut breaches = Vec::new();
    for source in sources() {
        let placed = places.contains(&source.path.as_str())
            || ["engine", "adapters/simulator", "adapters/local_ca", "conformance"].iter().any(|at| source.is_in(at));
        if source.names("Secret") && !placed {
            breaches.push(format!("{} names `Secret`", source.path));
        }
        if source.path == "secret.rs" {
            let can = ["Clone", "Serialize", "Deserialize", "Display", "PartialEq", "derive"];
            breaches.extend(can.iter().filter(|word| source.names(word)).map(|word| format!("a secret is `{word}`")));
        }
    }
    assert_none("a secret is handed on once", breaches);
}

#[test]
fn no_committed_file_names_a_place_on_somebodys_machine() {
    // Written in two pieces, so that this file does not name them either.
    let absent = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
        concat!("C:\\Us", "ers"),
        concat!("arti", "factory"),
    ];
    let files = committed_files();
    assert!(files.len() > 40, "the repository is all there");
    let mut breaches = Vec::new();
    for path in files {
        // A file that was deleted and not yet committed is still listed.
        let Ok(bytes) = fs::read(&path) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let found = text.lines().enumerate().filter_map(|(line, text)| {
            let found = absent.iter().find(|absent| text.contains(**absent))?;
            Some(format!("{}:{}: `{found}`", relative(&path, &root()), line + 1))
        });
        breaches.extend(found);
    }
    assert_none("absent from the repository", breaches);
}

/// What git knows or would take up; without git, as in an unpacked package, every file.
fn committed_files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty());
    match listed {
        Some(output) => {
            let names = String::from_utf8_lossy(&output.stdout).into_owned();
            names.split('\0').filter(|name| !name.is_empty()).map(|name| root().join(name)).collect()
        }
        None => {
            let mut files = Vec::new();
            walk(&root(), &mut files);
            files
        }
    }
}

// ---- the package ----

/// As numbers, so that 1.100 comes after 1.85 and 1.85.0 equals 1.85.
fn version(text: &str) -> [u32; 3] {
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip(text.split('.')) {
        *number = part.parse().expect("a number");
    }
    numbers
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo speaks UTF-8")
}

#[test]
fn the_rust_version_is_the_highest_that_the_dependencies_ask_for() {
    // Only what this platform needs, which is what has been fetched to build this test.
    let about = cargo(&["-vV"]);
    let platform = about.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    let metadata: Value = serde_json::from_str(&cargo(&[
        "metadata",
        "--format-version=1",
        "--all-features",
        "--locked",
        "--offline",
        "--filter-platform",
        platform,
    ]))
    .expect("metadata is JSON");

    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();

    let this = text(&metadata["resolve"]["root"]);
    let mut needed = vec![this.clone()];
    let mut next = 0;
    while let Some(package) = needed.get(next).cloned() {
        next += 1;
        for dependency in list(&nodes[&package]["deps"]) {
            let only_for_tests = list(&dependency["dep_kinds"]).iter().all(|kind| kind["kind"] == "dev");
            let id = text(&dependency["pkg"]);
            if !only_for_tests && !needed.contains(&id) {
                needed.push(id);
            }
        }
    }
    let asked: Vec<_> = needed
        .iter()
        .filter(|id| **id != this)
        .filter_map(|id| Some((version(packages[id]["rust_version"].as_str()?), text(&packages[id]["name"]))))
        .collect();
    for name in ["mlua", "rcgen", "rusqlite", "serde", "sqlx", "uuid"] {
        assert!(needed.iter().any(|id| packages[id]["name"] == name), "`{name}` is a dependency with all features");
    }
    assert!(!needed.iter().any(|id| packages[id]["name"] == "proptest"), "what only tests need does not count");

    let highest = asked.iter().map(|(version, _)| *version).max().expect("dependencies ask for a version");
    let who: Vec<_> = asked.iter().filter(|(version, _)| *version == highest).map(|(_, name)| name.as_str()).collect();
    let stated = version(packages[&this]["rust_version"].as_str().expect("`rust-version` is stated"));
    assert_eq!(stated, highest, "`rust-version` in Cargo.toml is not what {} ask for", who.join(", "));
}

// ---- the exact names ----

#[test]
fn the_standard_processes_have_exactly_these_names_and_defaults() {
    const ON: bool = true;
    const OFF: bool = false;
    let table = [
        ("CardsAddonExtProdBoProcOrderMultiple", ON),
        ("TempCardsAddonExtProdProcOrder", OFF),
        ("CardsAddonExtProdProcUpdate", OFF),
        ("CardsAddonExtProdProcAbort", OFF),
        ("CardsProcApproval", ON),
        ("CardsProcAbortRequest", ON),
        ("TempCardsAddonExtProdProcAbort", OFF),
        ("TempCardsAddonExtProdProcUpdate", OFF),
        ("CardsAddonExtProdProcRepeatOrder", ON),
        ("CardsProcResolveDoubt", ON),
        ("CardsAddonExtProdBatchSyncOrder", ON),
        ("CardsAddonExtProdBatchSyncStatus", ON),
    ];
    let registry = ProcessRegistry::standard();
    for (name, on) in table {
        let process = registry.process(name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(process.definition().name.as_str(), name);
        assert_eq!(process.definition().on, on, "{name} is {} by default", if on { "on" } else { "off" });
        assert!(!process.definition().slots.is_empty(), "{name} fits somewhere");
        assert!(registry.process(&name.to_lowercase()).is_err(), "names are never re-cased");
        let background = process.definition().component == Component::Background;
        assert_eq!(background, name.contains("BatchSync"), "{name}");
    }
}

#[test]
fn the_four_ordering_processes_are_called_and_offered_as_documented() {
    let table = [
        ("CardsAddonExtProdBoProcOrderMultiple", "Order multiple cards", vec![Slot::Batch]),
        ("TempCardsAddonExtProdProcOrder", "Order temporary cards", vec![Slot::New]),
        (
            "CardsAddonExtProdProcUpdate",
            "Update card order",
            vec![Slot::Card(CardState::Ordered), Slot::Card(CardState::InProduction)],
        ),
        ("CardsAddonExtProdProcAbort", "Abort card order", vec![Slot::Card(CardState::Processing)]),
    ];
    let registry = ProcessRegistry::standard();
    for (name, title, slots) in table {
        let definition = registry.process(name).unwrap_or_else(|error| panic!("{error}")).definition();
        assert_eq!(definition.title, title, "{name}");
        assert_eq!(definition.slots, slots, "{name}");
    }
}
