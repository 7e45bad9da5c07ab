//! What of a shard's writes may be there together, whoever made them: cells, batches of cells, operators' writes.
//!
//! Each shard applies its writes one by one, but who waits for a reply knows only that a write was applied between two moments: after it was
//! sent, and before its end was heard of. (Of operators' writes the moment itself is known.) So of two writes of a shard the one certainly came
//! first where its end was heard of before the other was sent; and where besides its epoch is not the later one, it comes first in the order of
//! sequence numbers, too. What is recovered is a prefix in one of these orders, or the union of two. So, under every durability:
//!
//! 1. **Order.** Where the later of two such writes is there, the earlier one is.
//! 2. **Batches.** Where one write of a batch is there, all of it are. This holds for reads, too, and where the batch has failed.
//!
//! A cell's state does not always tell which of its versions it is (several are absent, or have expired): then it stands for the earliest
//! in rule 1, and for none in rule 2. Writes that failed may have been applied or not, so that nothing follows from their absence.

use std::collections::BTreeMap;

/// Numbers everything that the oracle hears of.
pub(crate) type Moment = u64;

/// Where a write belongs: its shard in the run, and the epoch in which its operation was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    pub(crate) epoch: u32,
}

/// What is known of a write from what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is there, and it is what was written last of what is there of its cell.
    Last,
    /// It is there, or a later one of its cell is.
    ThisOrLater,
    /// Neither it nor a later one of its cell is there. It is certain that it was applied, or it has failed, and was maybe not.
    Lost { certain: bool },
}

/// A write that tells something.
struct Event {
    place: Place,
    /// It was applied behind the first moment and before the second.
    between: (Moment, Moment),
    standing: Standing,
    name: String,
}

/// All that is known of the writes of a run.
#[derive(Default)]
pub(crate) struct History(Vec<Event>);

impl History {
    pub(crate) fn add(
        &mut self,
        place: Place,
        between: (Moment, Moment),
        standing: Standing,
        name: impl FnOnce() -> String,
    ) {
        self.0.push(Event { place, between, standing, name: name() });
    }

    fn lost(&self) -> impl Iterator<Item = &Event> {
        self.0.iter().filter(|event| matches!(event.standing, Standing::Lost { .. }))
    }

    fn there(&self) -> impl Iterator<Item = &Event> {
        self.0.iter().filter(|event| !matches!(event.standing, Standing::Lost { .. }))
    }

    /// Rule 1.
    pub(crate) fn check_order(&self) -> Result<(), String> {
        // Of each shard and epoch the lost write that certainly came first.
        let mut earliest: BTreeMap<(usize, u32), &Event> = BTreeMap::new();
        for event in self.lost().filter(|event| event.standing == Standing::Lost { certain: true }) {
            let first = earliest.entry((event.place.shard, event.place.epoch)).or_insert(event);
            if event.between.1 < first.between.1 {
                *first = event;
            }
        }
        for event in self.there() {
            let Place { shard, epoch } = event.place;
            let before = earliest.range((shard, 0)..=(shard, epoch)).map(|(_, lost)| *lost);
            if let Some(lost) = before.into_iter().find(|lost| lost.between.1 < event.between.0) {
                return Err(format!(
                    "{} is there (applied {:?}, {:?}) without {} (applied {:?}, {:?}), which came before it",
                    event.name, event.between, event.place, lost.name, lost.between, lost.place
                ));
            }
        }
        Ok(())
    }

    /// Rule 2. The writes of a batch were sent at one moment, which no other write shares.
    pub(crate) fn check_batches(&self) -> Result<(), String> {
        let lost: BTreeMap<Moment, &Event> = self.lost().map(|event| (event.between.0, event)).collect();
        for event in self.there().filter(|event| event.standing == Standing::Last) {
            if let Some(lost) = lost.get(&event.between.0) {
                return Err(format!("half of a batch: {} is there without {}", event.name, lost.name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place { shard: 0, epoch: 3 };
    const LOST: Standing = Standing::Lost { certain: true };

    fn history(events: &[(Place, (Moment, Moment), Standing)]) -> History {
        let mut history = History::default();
        for (place, between, standing) in events {
            history.add(*place, *between, *standing, || format!("{between:?}"));
        }
        history
    }

    #[test]
    fn a_later_write_is_not_there_without_an_earlier_one() {
        assert!(history(&[(HERE, (1, 2), LOST), (HERE, (3, 4), Standing::Last)]).check_order().is_err());
        assert!(history(&[(HERE, (1, 2), LOST), (HERE, (3, 4), Standing::ThisOrLater)]).check_order().is_err());
        let older = Place { epoch: 1, ..HERE };
        assert!(history(&[(older, (1, 2), LOST), (HERE, (3, 4), Standing::Last)]).check_order().is_err());
    }

    #[test]
    fn a_prefix_may_be_there_and_what_was_in_flight_together_has_no_order() {
        assert!(history(&[(HERE, (1, 2), Standing::Last), (HERE, (3, 4), LOST)]).check_order().is_ok());
        assert!(history(&[(HERE, (1, 3), LOST), (HERE, (2, 4), Standing::Last)]).check_order().is_ok());
    }

    #[test]
    fn other_shards_stragglers_and_failures_have_no_order() {
        let later = (HERE, (3, 4), Standing::Last);
        assert!(history(&[(Place { shard: 1, ..HERE }, (1, 2), LOST), later]).check_order().is_ok());
        assert!(history(&[(Place { epoch: 4, ..HERE }, (1, 2), LOST), later]).check_order().is_ok());
        assert!(history(&[(HERE, (1, 2), Standing::Lost { certain: false }), later]).check_order().is_ok());
    }

    #[test]
    fn a_batch_is_whole_even_where_it_has_failed() {
        let failed = Standing::Lost { certain: false };
        assert!(history(&[(HERE, (1, 2), failed), (HERE, (1, 2), Standing::Last)]).check_batches().is_err());
        assert!(history(&[(HERE, (1, 2), LOST), (HERE, (1, 2), Standing::ThisOrLater)]).check_batches().is_ok());
        assert!(history(&[(HERE, (1, 2), LOST), (HERE, (1, 2), LOST), (HERE, (3, 4), LOST)]).check_batches().is_ok());
    }
}
