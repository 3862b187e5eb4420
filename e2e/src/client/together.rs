//! Several pulls that begin at one moment.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

use anyhow::{Result, anyhow};
use flotilla_proto::Digest;

use super::{Pull, Ready};

/// Clients that are ready to pull. Dropped, they end at one time too.
#[derive(Debug)]
pub struct Together<'a>(Vec<Ready<'a>>);

impl<'a> Together<'a> {
    /// Starts what the clients need.
    pub fn start(pulls: Vec<Pull<'a>>) -> Result<Self> {
        in_parallel(pulls, Pull::start).into_iter().collect::<Result<_>>().map(Self)
    }

    /// Pulls, and lists what each client then holds, or why it failed.
    pub fn run(&self) -> Vec<Result<BTreeSet<Digest>>> {
        let start = Barrier::new(self.0.len());
        in_parallel(self.0.iter().collect(), |ready| {
            start.wait();
            ready.run()
        })
    }
}

impl Drop for Together<'_> {
    fn drop(&mut self) {
        in_parallel(self.0.drain(..).collect(), |ready| {
            drop(ready);
            Ok(())
        });
    }
}

/// Does `work` on each item in a thread of its own.
fn in_parallel<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> Result<R> + Sync) -> Vec<Result<R>> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<R>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a pull panicked")))
        };
        threads.into_iter().map(join).collect()
    })
}
