//! The threads that wait for the disk, so that no caller does: one writes, some read.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use futures::channel::oneshot;
use rusqlite::Connection;

use super::problem::Problem;

/// A read.
type Read = Box<dyn FnOnce(&Connection) + Send>;

/// A write: runs inside a transaction and says whether to keep what it wrote, and how to answer when that is settled.
///
/// Given a problem instead, it only answers with that.
type Write = Box<dyn FnOnce(Result<&Connection, Problem>) -> Written + Send>;

struct Written {
    keep: bool,
    answer: Box<dyn FnOnce(Result<(), Problem>) + Send>,
}

/// What a write wants to become of its transaction.
pub(super) enum Outcome<T> {
    /// To be committed.
    Keep(T),
    /// To be rolled back.
    Undo(T),
}

/// How many waiting writes share one transaction, and so one wait for the disk.
const SHARED: usize = 64;

/// The queues to the threads. When they are dropped, the threads do what is still queued, close the file, and end.
pub(super) struct Threads {
    queues: Option<Queues>,
    writer: Option<JoinHandle<()>>,
}

struct Queues {
    writes: Sender<Write>,
    reads: Sender<Read>,
}

impl Drop for Threads {
    /// Waits until the file is closed: a program that ends before that leaves its log beside it.
    fn drop(&mut self) {
        self.queues = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Threads {
    /// Starts a thread for each connection.
    pub(super) fn start(writer: Connection, readers: Vec<Connection>) -> Result<Self, Problem> {
        let (writes, waiting_writes) = channel::<Write>();
        let (reads, waiting_reads) = channel::<Read>();
        let waiting_reads = Arc::new(Mutex::new(waiting_reads));
        let mut reading = Vec::with_capacity(readers.len());
        for reader in readers {
            let waiting = Arc::clone(&waiting_reads);
            reading.push(spawn("cardwright-sqlite-reader", move || read_all(&reader, &waiting))?);
        }
        let writer = spawn("cardwright-sqlite-writer", move || {
            write_all(&writer, &waiting_writes);
            // Only the last connection moves the log into the file, and none does if two are closed at the same moment.
            for reader in reading {
                let _ = reader.join();
            }
        })?;
        Ok(Self { queues: Some(Queues { writes, reads }), writer: Some(writer) })
    }

    /// Does the work in a reading thread.
    pub(super) async fn read<T, F>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Problem> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            // Nobody waits for the answer of a call that was dropped.
            if !sender.is_canceled() {
                let _ = sender.send(work(connection));
            }
        });
        let queues = self.queues.as_ref().ok_or(Problem::Stopped)?;
        queues.reads.send(read).map_err(|_| Problem::Stopped)?;
        receiver.await.unwrap_or(Err(Problem::Stopped))
    }

    /// Does the work in the writing thread, in a transaction that is committed before this answers.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<Outcome<T>, Problem> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let write: Write = Box::new(move |connection| {
            let (keep, result) = match connection.and_then(work) {
                Ok(Outcome::Keep(value)) => (true, Ok(value)),
                Ok(Outcome::Undo(value)) => (false, Ok(value)),
                Err(problem) => (false, Err(problem)),
            };
            let answer = move |ended: Result<(), Problem>| {
                // Its own problem says more than that the transaction could not be ended.
                let _ = sender.send(result.and_then(|value| ended.map(|()| value)));
            };
            Written { keep, answer: Box::new(answer) }
        });
        let queues = self.queues.as_ref().ok_or(Problem::Stopped)?;
        queues.writes.send(write).map_err(|_| Problem::Stopped)?;
        receiver.await.unwrap_or(Err(Problem::StoppedMeanwhile))
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Problem> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|error| Problem::NoThread(Arc::new(error)))
}

fn read_all(connection: &Connection, waiting: &Mutex<Receiver<Read>>) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(read) => read(connection),
            Err(_) => return,
        }
    }
}

fn write_all(connection: &Connection, waiting: &Receiver<Write>) {
    while let Ok(first) = waiting.recv() {
        let mut writes = VecDeque::from([first]);
        writes.extend(waiting.try_iter().take(SHARED - 1));
        while !writes.is_empty() {
            write_together(connection, &mut writes);
        }
    }
}

/// Does writes in one transaction. If SQLite ends the transaction by itself, as it does when the disk is full, then what
/// was done so far fails, and the rest is left for another transaction.
fn write_together(connection: &Connection, writes: &mut VecDeque<Write>) {
    if let Err(error) = connection.execute_batch("BEGIN IMMEDIATE") {
        let problem = Problem::from(error);
        return answer_all(writes.drain(..).map(|write| write(Err(problem.clone()))), &Ok(()));
    }
    let alone = writes.len() == 1;
    let mut written = Vec::with_capacity(writes.len());
    let mut keep_any = false;
    let mut ended = Ok(());
    while ended.is_ok()
        && let Some(write) = writes.pop_front()
    {
        let begun = if alone { Ok(()) } else { connection.execute_batch("SAVEPOINT one") };
        let one = write(begun.map(|()| connection).map_err(Problem::from));
        ended = if connection.is_autocommit() {
            Err(Problem::Lost)
        } else if alone {
            Ok(())
        } else {
            let end = if one.keep { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" };
            connection.execute_batch(end).map_err(Problem::from)
        };
        keep_any |= one.keep;
        written.push(one);
    }
    let ended = ended.and_then(|()| {
        if keep_any {
            connection.execute_batch("COMMIT").map_err(|error| Problem::Commit(Arc::new(error)))
        } else {
            connection.execute_batch("ROLLBACK").map_err(Problem::from)
        }
    });
    if !connection.is_autocommit() {
        // If this fails, the next `BEGIN` says so.
        let _ = connection.execute_batch("ROLLBACK");
    }
    answer_all(written, &ended);
}

fn answer_all(written: impl IntoIterator<Item = Written>, ended: &Result<(), Problem>) {
    for one in written {
        (one.answer)(ended.clone());
    }
}
