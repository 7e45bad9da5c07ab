//! Blocking engines on one or many threads.

use std::thread;

use crate::Result;
use crate::measure::Recorder;

/// Runs `work` over each list of picks, each on a thread of its own (a single list on this one), each with its own recorder.
pub(crate) fn run(
    lists: &[Vec<u32>],
    recorder: &mut Recorder,
    work: impl Fn(&[u32], &mut Recorder) -> Result<()> + Sync,
) -> Result<()> {
    if let [list] = lists {
        return work(list, recorder);
    }
    let work = &work;
    let outcomes: Vec<Result<Recorder>> = thread::scope(|scope| {
        let threads: Vec<_> = lists
            .iter()
            .map(|list| {
                scope.spawn(move || {
                    let mut recorder = Recorder::new();
                    work(list, &mut recorder).map(|()| recorder)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    for outcome in outcomes {
        recorder.merge(&outcome?);
    }
    Ok(())
}
