//! Runs option scripts in Luau. The only file that knows the script engine.
//!
//! A script sees an environment without content of its own: every global name that it reads or writes passes through [`Watch`], which keeps the
//! assignments with their lines and refuses what is not offered. What stops a script is remembered there too, so that `pcall` cannot hide it.

use super::problem::{OptionProblem, ProblemKind};
use super::spec::{FORBIDDEN, OFFERED, OptionValue, Raw};
use super::{Assigned, Assignment, Limits, Subject};
use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, LuaOptions, LuaString, StdLib, Table, Value, VmState};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

/// The compiler descends once per nesting level of the text, and library functions that call back once per nesting level of the calls (Luau allows
/// 200), so scripts are loaded, and their functions called, on a stack of known size.
const STACK_BYTES: usize = 16 * 1024 * 1024;
/// After so long without calls, a script's thread and its memory are given back.
const IDLE: Duration = Duration::from_secs(30);
/// The chunk name, as it stands before the line in messages of the engine.
const CHUNK: &str = "script";
/// How many problems are kept of one run.
const MOST_PROBLEMS: usize = 100;

/// A loaded script whose functions can be called.
pub(super) struct Program {
    setup: Arc<Setup>,
    kept: Arc<Mutex<Kept>>,
}

/// What is kept between two calls.
struct Kept {
    /// Where calls are made, once there was one, and until there was none for a while.
    caller: Option<Caller>,
    /// What loading left, for the first caller.
    machine: Option<Machine>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("script", &self.setup.script).finish_non_exhaustive()
    }
}

impl Program {
    /// Calls the function that the script set an option to, and returns its first result.
    ///
    /// The function runs on the stack of a thread of its own: how deep it may nest is limited by counts, whatever stack the host calls from.
    pub(super) fn call(&self, option: &str, subject: &Subject<'_>) -> Result<Raw, OptionProblem> {
        let call = Call { option: option.to_owned(), card: subject.card.cloned(), user: subject.user.cloned() };
        let mut kept = lock(&self.kept);
        let caller = match kept.caller.take() {
            Some(caller) => caller,
            None => Caller::start(&self.setup, kept.machine.take(), Arc::downgrade(&self.kept))?,
        };
        // Put back only if it answered.
        let answer = caller.call(call).ok_or_else(|| self.setup.failed("the script engine failed"))?;
        kept.caller = Some(caller);
        answer
    }
}

/// One call, without anything borrowed: it goes to another thread.
struct Call {
    option: String,
    card: Option<BTreeMap<String, String>>,
    user: Option<BTreeMap<String, String>>,
}

/// A thread that calls the functions of one script. Ends when it is dropped, or after a while without calls.
struct Caller {
    calls: SyncSender<Call>,
    answers: Receiver<Result<Raw, OptionProblem>>,
}

impl Caller {
    fn start(setup: &Arc<Setup>, mut machine: Option<Machine>, kept: Weak<Mutex<Kept>>) -> Result<Self, OptionProblem> {
        let (calls, incoming) = sync_channel::<Call>(1);
        let (outgoing, answers) = sync_channel(1);
        let its = Arc::clone(setup);
        let work = move || {
            loop {
                let call = match incoming.recv_timeout(IDLE) {
                    Ok(call) => call,
                    Err(RecvTimeoutError::Timeout) if is_unused(&kept) => return,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                // Taken out for the call: whatever ends it early leaves nothing behind.
                let ready = machine.take();
                let answer = catch_unwind(AssertUnwindSafe(|| its.call(ready, &call)));
                let answer = answer.unwrap_or_else(|_| Err(its.failed("the script engine failed")));
                let answer = answer.map(|(ready, raw)| {
                    machine = Some(ready);
                    raw
                });
                if outgoing.send(answer).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("cardwright-options".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(work).map_err(|error| setup.failed(format!("no thread for the script: {error}")))?;
        Ok(Self { calls, answers })
    }

    /// The answer; `None` if the thread is gone.
    fn call(&self, call: Call) -> Option<Result<Raw, OptionProblem>> {
        self.calls.send(call).ok()?;
        self.answers.recv().ok()
    }
}

/// Whether the thread may end: nobody is about to make a call, and the next one who is starts another thread.
fn is_unused(kept: &Weak<Mutex<Kept>>) -> bool {
    let Some(kept) = kept.upgrade() else { return true };
    // Whoever makes a call holds the lock until it is answered.
    let caller = match kept.try_lock() {
        Ok(mut kept) => kept.caller.take(),
        Err(TryLockError::Poisoned(kept)) => kept.into_inner().caller.take(),
        Err(TryLockError::WouldBlock) => return false,
    };
    drop(caller);
    true
}

/// What a script is loaded from, again and again.
struct Setup {
    script: String,
    text: String,
    known: Arc<[(String, OptionValue)]>,
    limits: Limits,
}

impl Setup {
    /// Calls, and gives back what the next call may use. After a failure that is built anew, so that nothing of the failure is left.
    fn call(&self, ready: Option<Machine>, call: &Call) -> Result<(Machine, Raw), OptionProblem> {
        let machine = match ready {
            Some(ready) => ready,
            None => {
                let run = run(&self.script, &self.text, &self.known, &self.limits);
                let first = run.problems.into_iter().next();
                run.machine.ok_or_else(|| first.unwrap_or_else(|| self.failed("the script no longer loads")))?
            }
        };
        let subject = Subject::new(call.card.as_ref(), call.user.as_ref());
        let raw = machine.call(&self.script, &call.option, &subject, &self.limits)?;
        Ok((machine, raw))
    }

    fn failed(&self, what: impl std::fmt::Display) -> OptionProblem {
        OptionProblem::new(&self.script, ProblemKind::Runtime).found(what)
    }
}

pub(super) struct Loaded {
    pub(super) assignments: Vec<Assignment>,
    pub(super) problems: Vec<OptionProblem>,
    /// Present if the script ran to its end and set at least one option to a function.
    pub(super) program: Option<Program>,
}

/// Runs a script once. `known` are the options of the script with their defaults.
pub(super) fn load(script: &str, text: &str, known: Arc<[(String, OptionValue)]>, limits: &Limits) -> Loaded {
    let run = on_own_stack(script, || run(script, text, &known, limits)).unwrap_or_else(Run::failed);
    let has_functions = run.assignments.iter().any(|assignment| matches!(assignment.value, Assigned::Function));
    let machine = run.machine.filter(|_| has_functions);
    Loaded {
        assignments: run.assignments,
        problems: run.problems,
        program: machine.map(|machine| Program {
            setup: Arc::new(Setup { script: script.to_owned(), text: text.to_owned(), known, limits: *limits }),
            kept: Arc::new(Mutex::new(Kept { caller: None, machine: Some(machine) })),
        }),
    }
}

struct Run {
    assignments: Vec<Assignment>,
    problems: Vec<OptionProblem>,
    machine: Option<Machine>,
}

impl Run {
    fn failed(problem: OptionProblem) -> Self {
        Self { assignments: Vec::new(), problems: vec![problem], machine: None }
    }
}

fn run(script: &str, text: &str, known: &Arc<[(String, OptionValue)]>, limits: &Limits) -> Run {
    if let Err(problem) = check_text(script, text, limits) {
        return Run::failed(problem);
    }
    let machine = match Machine::new(known, limits) {
        Ok(machine) => machine,
        Err(error) => return Run::failed(problem_of(script, &error)),
    };
    let result = machine.start(text, limits);
    let mut watch = machine.watch.lock();
    let mut problems: Vec<OptionProblem> = watch.findings.drain(..).map(|finding| finding.problem(script)).collect();
    let stopped = watch.stop.take();
    let assignments = std::mem::take(&mut watch.assignments);
    watch.loading = false;
    drop(watch);
    let mut ended = true;
    if let Some((kind, line)) = stopped {
        problems.push(OptionProblem::new(script, kind).at(line).found(limit_text(kind, limits)));
        ended = false;
    } else if let Err(error) = result {
        let problem = problem_of(script, &error);
        // What was refused is nil; that the script then stumbles over it in the same line says nothing new.
        if problem.kind != ProblemKind::Runtime || !problems.iter().any(|other| other.line == problem.line) {
            problems.push(problem);
        }
        ended = false;
    }
    Run { assignments, problems, machine: Some(machine).filter(|_| ended) }
}

/// Refuses what the compiler should not see: too long a text, a NUL (which it would take for the end), compiled code.
fn check_text(script: &str, text: &str, limits: &Limits) -> Result<(), OptionProblem> {
    if text.len() > limits.script_bytes {
        let problem = OptionProblem::new(script, ProblemKind::TooLong).found(format!("{} bytes", text.len()));
        return Err(problem.allowed(format!("at most {} bytes", limits.script_bytes)));
    }
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    if let Some(position) = text.find(control) {
        let line = text[..position].matches('\n').count() + 1;
        let problem = OptionProblem::new(script, ProblemKind::Syntax).at(u32::try_from(line).ok());
        let found = text[position..].chars().next().unwrap_or_default();
        return Err(problem
            .found(format!("control character U+{:04X}", u32::from(found)))
            .allowed("a script is plain text"));
    }
    Ok(())
}

/// Runs the work on a thread with a stack of known size: the engine limits nesting by counts, not by the stack of the caller.
fn on_own_stack<T: Send>(script: &str, work: impl FnOnce() -> T + Send) -> Result<T, OptionProblem> {
    std::thread::scope(|scope| {
        let failed = |what: String| OptionProblem::new(script, ProblemKind::Runtime).found(what);
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| failed(format!("no thread for the script: {error}")))?;
        thread.join().map_err(|_| failed("the script engine failed".to_owned()))
    })
}

/// One Luau state with one script in it.
struct Machine {
    // Declared before the state, because it holds references into it.
    functions: Functions,
    watch: Arc<Watch>,
    environment: Table,
    lua: Lua,
    memory_limit: usize,
}

type Functions = Arc<Mutex<BTreeMap<String, Function>>>;

impl Machine {
    fn new(known: &Arc<[(String, OptionValue)]>, limits: &Limits) -> mlua::Result<Self> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::UTF8 | StdLib::BIT | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        let watch = Arc::new(Watch::new(limits));
        let functions = Functions::default();
        let offered = offered(&lua, &watch)?;
        let environment = environment(&lua, &watch, &functions, offered, known)?;
        lua.gc_collect()?;
        let memory_limit = lua.used_memory().saturating_add(limits.memory_bytes);
        let ticks = Arc::clone(&watch);
        lua.set_interrupt(move |lua| ticks.tick(lua));
        Ok(Self { functions, watch, environment, lua, memory_limit })
    }

    /// Runs the script for the first and only time.
    fn start(&self, text: &str, limits: &Limits) -> mlua::Result<()> {
        self.watch.begin(limits);
        self.lua.set_memory_limit(self.memory_limit)?;
        let chunk = self
            .lua
            .load(text)
            .set_name(format!("={CHUNK}"))
            .set_mode(ChunkMode::Text)
            .set_environment(self.environment.clone());
        chunk.into_function()?.call(())
    }

    fn call(&self, script: &str, option: &str, subject: &Subject<'_>, limits: &Limits) -> Result<Raw, OptionProblem> {
        let function = lock(&self.functions).get(option).cloned();
        let Some(function) = function else {
            return Err(OptionProblem::new(script, ProblemKind::NotResolved).option(option));
        };
        self.watch.begin(limits);
        let result = self.arguments(subject).and_then(|arguments| function.call::<Value>(arguments));
        let mut watch = self.watch.lock();
        let stopped = watch.stop.take();
        let finding = watch.findings.drain(..).next();
        drop(watch);
        if let Some((kind, line)) = stopped {
            return Err(OptionProblem::new(script, kind).at(line).found(limit_text(kind, limits)));
        }
        if let Some(finding) = finding {
            return Err(finding.problem(script));
        }
        match result {
            Ok(value) => Ok(raw(&value)),
            Err(error) => Err(problem_of(script, &error)),
        }
    }

    /// The tables of the subject. They count as given, not against the memory of the script.
    fn arguments(&self, subject: &Subject<'_>) -> mlua::Result<(Option<Table>, Option<Table>)> {
        self.lua.set_memory_limit(0)?;
        let before = self.lua.used_memory();
        let table = |attributes: &BTreeMap<String, String>| -> mlua::Result<Table> {
            let table = self.lua.create_table_with_capacity(0, attributes.len())?;
            for (name, value) in attributes {
                table.raw_set(name.as_str(), value.as_str())?;
            }
            table.set_readonly(true);
            Ok(table)
        };
        let arguments = (subject.card.map(table).transpose()?, subject.user.map(table).transpose()?);
        let given = self.lua.used_memory().saturating_sub(before);
        self.lua.set_memory_limit(self.memory_limit.saturating_add(given))?;
        Ok(arguments)
    }
}

/// What happens while a script runs.
struct Watch(Mutex<Watched>);

struct Watched {
    loading: bool,
    interrupts_left: u64,
    deadline: Instant,
    stop: Option<(ProblemKind, Option<u32>)>,
    assignments: Vec<Assignment>,
    findings: Vec<Finding>,
}

/// A name that a script may not read or write.
struct Finding {
    kind: ProblemKind,
    name: String,
    line: Option<u32>,
    known: Vec<String>,
}

impl Finding {
    fn problem(&self, script: &str) -> OptionProblem {
        let problem = OptionProblem::new(script, self.kind).at(self.line).option(&self.name);
        problem.nearest(self.known.iter().map(String::as_str))
    }
}

impl Watch {
    fn new(limits: &Limits) -> Self {
        Self(Mutex::new(Watched {
            loading: true,
            interrupts_left: limits.interrupts,
            deadline: Instant::now() + limits.wall,
            stop: None,
            assignments: Vec::new(),
            findings: Vec::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        lock(&self.0)
    }

    fn begin(&self, limits: &Limits) {
        let mut watched = self.lock();
        watched.interrupts_left = limits.interrupts;
        watched.deadline = Instant::now() + limits.wall;
        watched.stop = None;
        watched.findings.clear();
    }

    /// Called by the engine at every call, loop iteration and pattern-matching step. Once stopped, always stopped.
    fn tick(&self, lua: &Lua) -> mlua::Result<VmState> {
        let mut watched = self.lock();
        if watched.stop.is_none() {
            if watched.interrupts_left > 0 && Instant::now() < watched.deadline {
                watched.interrupts_left -= 1;
                return Ok(VmState::Continue);
            }
            watched.stop = Some((ProblemKind::OutOfTime, line(lua, 0).or_else(|| line(lua, 1))));
        }
        Err(stopped())
    }

    /// Called with every error that a `pcall` caught: reaching a limit is not for a script to handle.
    fn caught(&self, lua: &Lua, error: &Value) -> mlua::Result<()> {
        let mut watched = self.lock();
        if watched.stop.is_none() {
            let kind = match error {
                // Handlers that fail in their own handling would otherwise nest without a trace.
                Value::String(message) if message.as_bytes() == b"error in error handling" => {
                    Some(ProblemKind::TooDeep)
                }
                Value::String(message) => limit_kind(&message.to_string_lossy()),
                Value::Error(error) => Some(problem_of("", error).kind).filter(|kind| *kind != ProblemKind::Runtime),
                _ => None,
            };
            watched.stop = kind.map(|kind| (kind, line(lua, 2)));
        }
        if watched.stop.is_some() { Err(stopped()) } else { Ok(()) }
    }

    fn find(&self, finding: Finding) {
        let mut watched = self.lock();
        if watched.findings.len() < MOST_PROBLEMS {
            watched.findings.push(finding);
        }
    }
}

/// Library tables under the names that scripts may use.
fn offered(lua: &Lua, watch: &Arc<Watch>) -> mlua::Result<BTreeMap<&'static str, Value>> {
    let globals = lua.globals();
    let caught = Arc::clone(watch);
    let caught = lua.create_function(move |lua, error: Value| caught.caught(lua, &error))?;
    let string: Table = globals.raw_get("string")?;
    let wrapped: Table = lua.load(WRAPPERS).set_name("=library").set_mode(ChunkMode::Text).call((string, caught))?;

    let mut offered = BTreeMap::new();
    for &name in OFFERED {
        let members = MEMBERS.iter().find(|(library, _)| *library == name).map(|(_, members)| *members);
        let value = match members {
            Some(members) => {
                let library: Table = globals.raw_get(name)?;
                let copy = lua.create_table()?;
                for &member in members {
                    let own: Value = wrapped.raw_get(member)?;
                    let value = if name == "string" && !own.is_nil() { own } else { library.raw_get(member)? };
                    copy.raw_set(member, value)?;
                }
                copy.set_readonly(true);
                Value::Table(copy)
            }
            None => match wrapped.raw_get(name)? {
                Value::Nil => globals.raw_get(name)?,
                own => own,
            },
        };
        offered.insert(name, value);
    }

    // ("text"):find(…) must reach the same functions, and no script may change what it reaches.
    let methods = lua.create_table()?;
    methods.raw_set("__index", offered.get("string").cloned())?;
    methods.raw_set("__metatable", "locked")?;
    methods.set_readonly(true);
    lua.set_type_metatable::<LuaString>(Some(methods));
    Ok(offered)
}

/// `pcall` and `xpcall` that report what they caught, and text functions that refuse inputs for which one step would take long.
const WRAPPERS: &str = r##"
local string, caught = ...
local pcall, xpcall, type, error = pcall, xpcall, type, error

local function reported(ok, ...)
    if not ok then caught((...)) end
    return ok, ...
end

local function bounded(name)
    local f = string[name]
    return function(text, pattern, ...)
        if type(text) == "string" and #text > 65536 then
            error("text of more than 65536 bytes given to string." .. name, 2)
        end
        if type(pattern) == "string" and #pattern > 256 then
            error("pattern of more than 256 bytes given to string." .. name, 2)
        end
        return f(text, pattern, ...)
    end
end

return {
    pcall = function(f, ...) return reported(pcall(f, ...)) end,
    xpcall = function(f, handler, ...)
        if type(handler) ~= "function" then error("xpcall needs a function as its second argument", 2) end
        return reported(xpcall(f, function(failure) caught(failure) return handler(failure) end, ...))
    end,
    find = bounded("find"),
    match = bounded("match"),
    gmatch = bounded("gmatch"),
    gsub = bounded("gsub"),
    split = bounded("split"),
}
"##;

/// What the offered libraries contain: nothing that is random, reads or writes code, or takes long in one step.
const MEMBERS: &[(&str, &[&str])] = &[
    (
        "string",
        &[
            "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "rep", "reverse", "split",
            "sub", "upper",
        ],
    ),
    (
        "table",
        &["clone", "concat", "create", "find", "freeze", "insert", "isfrozen", "pack", "remove", "sort", "unpack"],
    ),
    (
        "math",
        &[
            "abs", "acos", "asin", "atan", "atan2", "ceil", "clamp", "cos", "cosh", "deg", "exp", "floor", "fmod",
            "frexp", "huge", "ldexp", "log", "log10", "max", "min", "modf", "pi", "pow", "rad", "round", "sign", "sin",
            "sinh", "sqrt", "tan", "tanh",
        ],
    ),
    ("utf8", &["char", "charpattern", "codepoint", "codes", "len", "offset"]),
    (
        "bit32",
        &[
            "arshift", "band", "bnot", "bor", "btest", "bxor", "countlz", "countrz", "extract", "lrotate", "lshift",
            "replace", "rrotate", "rshift",
        ],
    ),
];

/// The environment of the script: an empty table whose every access is watched.
fn environment(
    lua: &Lua,
    watch: &Arc<Watch>,
    functions: &Functions,
    offered: BTreeMap<&'static str, Value>,
    known: &Arc<[(String, OptionValue)]>,
) -> mlua::Result<Table> {
    let set = lua.create_table()?;
    for (name, default) in known.iter() {
        set.raw_set(name.as_str(), value_of(lua, default)?)?;
    }

    let values = set.clone();
    let reads = Arc::clone(watch);
    let known = Arc::clone(known);
    let index = lua.create_function(move |lua, (_, name): (Table, LuaString)| {
        let name = name.to_string_lossy();
        if let Some(value) = offered.get(name.as_str()) {
            return Ok(value.clone());
        }
        let value: Value = values.raw_get(name.as_str())?;
        if known.iter().any(|(option, _)| *option == name) {
            return Ok(value);
        }
        let (kind, known) = if FORBIDDEN.contains(&name.as_str()) {
            (ProblemKind::Forbidden, Vec::new())
        } else {
            let options = known.iter().map(|(option, _)| option.as_str());
            let words = ["true", "false"].into_iter().chain(OFFERED.iter().copied());
            (ProblemKind::UnknownName, options.chain(words).map(str::to_owned).collect())
        };
        let line = line(lua, 1);
        reads.find(Finding { kind, name, line, known });
        Ok(Value::Nil)
    })?;

    let writes = Arc::clone(watch);
    let functions = Arc::clone(functions);
    let newindex = lua.create_function(move |lua, (_, name, value): (Table, LuaString, Value)| {
        let name = name.to_string_lossy();
        let line = line(lua, 1);
        let mut watched = writes.lock();
        if !watched.loading {
            drop(watched);
            writes.find(Finding { kind: ProblemKind::Forbidden, name, line, known: Vec::new() });
            return Err(mlua::Error::runtime("a value function may not set options"));
        }
        if watched.assignments.iter().any(|assignment| assignment.name == name) {
            drop(watched);
            writes.find(Finding { kind: ProblemKind::AssignedTwice, name, line, known: Vec::new() });
            return Ok(());
        }
        let assigned = match &value {
            Value::Function(function) => {
                lock(&functions).insert(name.clone(), function.clone());
                Assigned::Function
            }
            value => Assigned::Value(raw(value)),
        };
        watched.assignments.push(Assignment { name: name.clone(), line, value: assigned });
        drop(watched);
        set.raw_set(name, value)
    })?;

    let access = lua.create_table()?;
    access.raw_set("__index", index)?;
    access.raw_set("__newindex", newindex)?;
    access.raw_set("__metatable", "locked")?;
    access.set_readonly(true);
    let environment = lua.create_table()?;
    environment.set_metatable(Some(access))?;
    Ok(environment)
}

/// An option value as a script would write it.
fn value_of(lua: &Lua, value: &OptionValue) -> mlua::Result<Value> {
    fn convert(lua: &Lua, raw: &Raw) -> mlua::Result<Value> {
        Ok(match raw {
            Raw::Nil | Raw::Other(_) => Value::Nil,
            Raw::Boolean(value) => Value::Boolean(*value),
            #[expect(clippy::cast_precision_loss, reason = "a Luau number is a double")]
            Raw::Integer(value) => Value::Number(*value as f64),
            Raw::Number(value) => Value::Number(*value),
            Raw::Text(text) => Value::String(lua.create_string(text)?),
            Raw::List(items) => {
                let table = lua.create_table()?;
                for item in items {
                    table.raw_push(convert(lua, item)?)?;
                }
                table.set_readonly(true);
                Value::Table(table)
            }
            Raw::Table(fields) => {
                let table = lua.create_table()?;
                for (name, value) in fields {
                    table.raw_set(name.as_str(), convert(lua, value)?)?;
                }
                table.set_readonly(true);
                Value::Table(table)
            }
        })
    }
    convert(lua, &Raw::from(value))
}

/// What a script produced, read without running any more of it.
fn raw(value: &Value) -> Raw {
    match value {
        Value::Table(table) => raw_table(table),
        value => raw_scalar(value),
    }
}

fn raw_scalar(value: &Value) -> Raw {
    const LONGEST: usize = 4096;
    // Whole doubles up to here are exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Nil => Raw::Nil,
        Value::Boolean(value) => Raw::Boolean(*value),
        Value::Integer(value) => Raw::Integer(*value),
        #[expect(clippy::cast_possible_truncation, reason = "whole and within the exact range")]
        Value::Number(value) if value.fract() == 0.0 && value.abs() < EXACT => Raw::Integer(*value as i64),
        Value::Number(value) => Raw::Number(*value),
        Value::String(text) if text.as_bytes().len() > LONGEST => {
            Raw::Other(format!("a text of {} bytes", text.as_bytes().len()))
        }
        Value::String(text) => match text.to_str() {
            Ok(text) => Raw::Text(text.to_owned()),
            Err(_) => Raw::Other("a text that is not UTF-8".to_owned()),
        },
        Value::Function(_) => Raw::Other("a function".to_owned()),
        Value::Table(_) => Raw::Other("a table".to_owned()),
        value => Raw::Other(format!("a {}", value.type_name())),
    }
}

fn raw_table(table: &Table) -> Raw {
    const MOST: usize = 256;
    if table.metatable().is_some() {
        return Raw::Other("a table with a metatable".to_owned());
    }
    let mut items = BTreeMap::new();
    let mut fields = BTreeMap::new();
    for pair in table.pairs::<Value, Value>() {
        let Ok((key, value)) = pair else {
            return Raw::Other("a table that cannot be read".to_owned());
        };
        match raw_scalar(&key) {
            Raw::Integer(index) => {
                items.insert(index, raw_scalar(&value));
            }
            Raw::Text(name) => {
                fields.insert(name, raw_scalar(&value));
            }
            other => return Raw::Other(format!("a table with the key {other}")),
        }
        if items.len() + fields.len() > MOST {
            return Raw::Other(format!("a table of more than {MOST} entries"));
        }
    }
    match (items.is_empty(), fields.is_empty()) {
        (false, false) => Raw::Other("a table that is both a list and not".to_owned()),
        (true, false) => Raw::Table(fields.into_iter().collect()),
        _ if items.keys().copied().eq((1..).take(items.len())) => Raw::List(items.into_values().collect()),
        _ => Raw::Other("a list with gaps".to_owned()),
    }
}

fn line(lua: &Lua, level: usize) -> Option<u32> {
    lua.inspect_stack(level, |frame| frame.current_line()).flatten().and_then(|line| u32::try_from(line).ok())
}

fn stopped() -> mlua::Error {
    mlua::Error::runtime("stopped")
}

fn limit_text(kind: ProblemKind, limits: &Limits) -> String {
    match kind {
        ProblemKind::OutOfTime => {
            format!("more than {} steps or {:?}", limits.interrupts, limits.wall)
        }
        ProblemKind::OutOfMemory => format!("more than {} bytes", limits.memory_bytes),
        _ => String::new(),
    }
}

/// The limit that a message of the engine tells of.
fn limit_kind(message: &str) -> Option<ProblemKind> {
    const MEMORY: &[&str] = &[
        "not enough memory",
        "resulting string too large",
        "format result too large",
        "buffer too large",
        "table overflow",
    ];
    if message.contains("stack overflow") {
        Some(ProblemKind::TooDeep)
    } else if MEMORY.iter().any(|text| message.contains(text)) {
        Some(ProblemKind::OutOfMemory)
    } else {
        None
    }
}

fn problem_of(script: &str, error: &mlua::Error) -> OptionProblem {
    let (kind, message) = match error {
        mlua::Error::SyntaxError { message, .. } => (ProblemKind::Syntax, message.as_str()),
        mlua::Error::MemoryError(_) => (ProblemKind::OutOfMemory, "not enough memory"),
        mlua::Error::RuntimeError(message) => (limit_kind(message).unwrap_or(ProblemKind::Runtime), message.as_str()),
        mlua::Error::StackError => (ProblemKind::TooDeep, ""),
        mlua::Error::CallbackError { cause, .. } => return problem_of(script, cause),
        error => return OptionProblem::new(script, ProblemKind::Runtime).found(error),
    };
    let message = message.split("\nstack traceback:").next().unwrap_or_default();
    let (line, message) = placed(message);
    OptionProblem::new(script, kind).at(line).found(message.replace(['\n', '\r'], " "))
}

/// Splits `script:3: message`.
fn placed(message: &str) -> (Option<u32>, &str) {
    let rest = message.strip_prefix(CHUNK).and_then(|rest| rest.strip_prefix(':'));
    let Some((number, text)) = rest.and_then(|rest| rest.split_once(": ")) else {
        return (None, message);
    };
    match number.parse() {
        Ok(line) => (Some(line), text),
        Err(_) => (None, message),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_ends_when_nobody_calls_and_the_next_call_starts_another() {
        let known: Arc<[_]> = [("Length".to_owned(), OptionValue::Integer(6))].into();
        let loaded = load("Test", "Length = function() return 7 end", known, &Limits::default());
        let program = loaded.program.expect("it has a function");
        let kept = Arc::downgrade(&program.kept);
        for _ in 0..2 {
            assert_eq!(program.call("Length", &Subject::default()), Ok(Raw::Integer(7)));
            let calling = lock(&program.kept);
            assert!(!is_unused(&kept), "somebody is about to call");
            assert!(calling.caller.is_some());
            drop(calling);
            assert!(is_unused(&kept));
            assert!(lock(&program.kept).caller.is_none());
        }
        drop(program);
        assert!(is_unused(&kept), "the script is gone");
    }
}
