//! What goes to the device next: pieces of operations by class, and how much of the background is with the driver at once.
//!
//! A device serves what it has been sent in an order of its own. A foreground read that comes behind megabytes of compaction waits for
//! them, and no priority in the executor helps it any more. So what is sent is what is limited:
//!
//! 1. A foreground piece goes to the driver at once. Only where the driver has no room does it wait, in a line of its own.
//! 2. A background piece waits in the line of its class. At the end of a turn, lines are emptied as far as the [`IoBudget`] goes: bytes and
//!    pieces of all background classes together that are with the driver.
//! 3. Among the classes that wait, the one with the least *virtual time* is next (start-time fair queuing: Goyal, Vin, Cheng, SIGCOMM 1996).
//!    A piece moves its class's virtual time on by its cost, its bytes and [`COMMAND_COST_BYTES`], divided by the class's weight. A class
//!    that was away starts at the present virtual time; ties go to the more urgent one. So a class that asks for less than its share, as
//!    flush mostly does, is always next when it comes: that is its priority. One that asks for more gets its share.
//! 4. A completion gives the piece's bytes back. What is left of a short or interrupted transfer goes to the front of its line, and is counted
//!    anew when it is sent.
//!
//! Invariants
//! 1. Background pieces with the driver are within the budget, in bytes and in number; or there is one of them.
//! 2. Where background pieces wait, at least one is with the driver, or the driver has no room and the next room is theirs: neither
//!    a small budget nor a flood of foreground operations stops the background.
//! 3. Before a foreground piece that waits for room goes at most one background piece (by 2). None waits for the budget.
//! 4. Between two pieces of a class that waits, the first of cost `c`, another class `j` sends pieces of a cost of at most
//!    `c * weight_j / weight + c_max`, where `c_max` is its most expensive piece: no class starves another.
//! 5. The pieces of a class are sent in the order of their arrival.
//!
//! # Waiting for what is less urgent
//!
//! A foreground task may wait for background I/O: a write for the flush of a full memtable, or for the compaction of level 0. That
//! cannot deadlock: the budget is held by pieces that the driver has, whose completion needs no task; nobody holds a part of it while waiting
//! for anything else. Nor can it last: by 2 the background always moves, and by 4 each class of it. What the foreground waits for in
//! small things (the manifest's lock, a block that compaction happens to read into the cache first) the engine starts as foreground,
//! with [`Device::in_class`](crate::Device::in_class), whoever runs it.

use std::collections::VecDeque;

use super::config::{Class, IoBudget};

/// What a command costs beside its bytes, when time on the device is shared.
const COMMAND_COST_BYTES: u64 = 16 << 10;
/// Virtual time of a byte at weight 1: weights up to this divide it without loss.
const SCALE: u64 = 16;

/// The line that a piece waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Foreground,
    /// By index in [`Class::BACKGROUND`].
    Background(usize),
}

/// See the module. A piece is known by its key.
pub(crate) struct Queue {
    budget: IoBudget,
    foreground: VecDeque<u64>,
    background: [ClassLine; 3],
    /// Pieces in all lines of the background.
    background_waiting: usize,
    /// Background pieces with the driver, and their bytes.
    pieces_sent: u32,
    bytes_sent: u64,
    /// The virtual time at which the last background piece was sent.
    now: u64,
}

struct ClassLine {
    pieces: VecDeque<Waiting>,
    /// The virtual time of the first piece; of an empty line, of the end of its last.
    at: u64,
    weight: u64,
}

#[derive(Clone, Copy)]
struct Waiting {
    key: u64,
    bytes: u64,
}

impl Queue {
    pub(crate) fn new(budget: IoBudget, weights: [u32; 3]) -> Queue {
        let line = |weight: u32| ClassLine { pieces: VecDeque::new(), at: 0, weight: u64::from(weight.max(1)) };
        Queue {
            budget,
            foreground: VecDeque::new(),
            background: weights.map(line),
            background_waiting: 0,
            pieces_sent: 0,
            bytes_sent: 0,
            now: 0,
        }
    }

    /// Whether a piece of this class may be sent without waiting in line.
    #[inline]
    pub(crate) fn passes(&self, class: Class) -> bool {
        class == Class::Foreground && self.foreground.is_empty()
    }

    /// Puts a piece at the end of its line.
    pub(crate) fn push(&mut self, class: Class, key: u64, bytes: u64) {
        match background_index(class) {
            None => self.foreground.push_back(key),
            Some(index) => self.enter(index).pieces.push_back(Waiting { key, bytes }),
        }
    }

    /// Puts a piece that is to be sent again into its line: of the background, at the front. (A foreground piece that the device has
    /// refused lets the others go first.)
    pub(crate) fn push_again(&mut self, class: Class, key: u64, bytes: u64) {
        match background_index(class) {
            None => self.foreground.push_back(key),
            Some(index) => self.enter(index).pieces.push_front(Waiting { key, bytes }),
        }
    }

    fn enter(&mut self, index: usize) -> &mut ClassLine {
        self.background_waiting += 1;
        let line = &mut self.background[index];
        if line.pieces.is_empty() {
            // A class that was away does not come back with a claim on what it did not need.
            line.at = line.at.max(self.now);
        }
        line
    }

    /// The piece to be sent now, if the driver has room for it; tell [`Queue::sent`] then.
    #[inline]
    pub(crate) fn next(&self) -> Option<(Line, u64)> {
        if self.background_waiting > 0 && (self.pieces_sent == 0 || self.foreground.is_empty()) {
            return self.next_of_background();
        }
        self.foreground.front().map(|&key| (Line::Foreground, key))
    }

    fn next_of_background(&self) -> Option<(Line, u64)> {
        let waits = |index: &usize| !self.background[*index].pieces.is_empty();
        let index = (0..self.background.len()).filter(waits).min_by_key(|&index| self.background[index].at)?;
        let first = self.background[index].pieces.front()?;
        // Where the first one does not fit, a smaller one behind it does not go either: it might never fit.
        let fits = self.pieces_sent < self.budget.background_ops_max
            && self.bytes_sent.saturating_add(first.bytes) <= self.budget.background_bytes_max;
        (fits || self.pieces_sent == 0).then_some((Line::Background(index), first.key))
    }

    /// The piece that `next` named is with the driver.
    pub(crate) fn sent(&mut self, line: Line) {
        let index = match line {
            Line::Foreground => {
                self.foreground.pop_front();
                return;
            }
            Line::Background(index) => index,
        };
        let line = &mut self.background[index];
        let Some(piece) = line.pieces.pop_front() else { unreachable!("the line that was named has a piece") };
        assert!(line.at >= self.now, "virtual time runs forward");
        self.now = line.at;
        line.at += (piece.bytes + COMMAND_COST_BYTES) * SCALE / line.weight;
        self.background_waiting -= 1;
        self.pieces_sent += 1;
        self.bytes_sent += piece.bytes;
    }

    /// A piece of this class that was sent with so many bytes is not with the driver any more.
    #[inline]
    pub(crate) fn completed(&mut self, class: Class, bytes: u64) {
        if class != Class::Foreground {
            assert!(self.pieces_sent > 0 && self.bytes_sent >= bytes, "more pieces have completed than were sent");
            self.pieces_sent -= 1;
            self.bytes_sent -= bytes;
        }
    }

    /// Whether something waits for room in the driver, and not for the budget.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.next().is_some()
    }

    /// Whether no background piece waits or is with the driver.
    pub(crate) fn background_is_idle(&self) -> bool {
        self.background_waiting == 0 && self.pieces_sent == 0 && self.bytes_sent == 0
    }

    /// Takes a piece out that will not be sent.
    pub(crate) fn remove(&mut self) -> Option<u64> {
        if let Some(key) = self.foreground.pop_front() {
            return Some(key);
        }
        let piece = self.background.iter_mut().find_map(|line| line.pieces.pop_front())?;
        self.background_waiting -= 1;
        Some(piece.key)
    }
}

/// The index in [`Class::BACKGROUND`].
#[inline]
fn background_index(class: Class) -> Option<usize> {
    (class as usize).checked_sub(1)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Random;

    const KIB: u64 = 1 << 10;
    const BLOCK: u64 = 512 * KIB;

    fn queue(background_bytes_max: u64, background_ops_max: u32) -> Queue {
        Queue::new(IoBudget { background_bytes_max, background_ops_max }, [4, 2, 1])
    }

    /// Sends what may go, as to a driver with this much room.
    fn send(queue: &mut Queue, room: usize) -> Vec<u64> {
        let mut keys = Vec::new();
        while keys.len() < room
            && let Some((line, key)) = queue.next()
        {
            queue.sent(line);
            keys.push(key);
        }
        keys
    }

    #[test]
    fn the_background_is_sent_up_to_its_bytes_and_up_to_its_number() {
        let mut queue = queue(3 * BLOCK, 5);
        (0..4).for_each(|key| queue.push(Class::Compaction, key, BLOCK));
        assert_eq!(send(&mut queue, 9), [0, 1, 2]);
        assert!(!queue.waits_for_room(), "the fourth waits for the budget");
        queue.completed(Class::Compaction, BLOCK);
        assert_eq!(send(&mut queue, 9), [3]);
        (0..3).for_each(|_| queue.completed(Class::Compaction, BLOCK));
        (10..20).for_each(|key| queue.push(Class::Checkpoint, key, 0));
        assert_eq!(send(&mut queue, 9), [10, 11, 12, 13, 14]);
    }

    #[test]
    fn a_piece_beyond_the_budget_goes_alone() {
        let mut queue = queue(0, 0);
        queue.push(Class::Flush, 1, BLOCK);
        queue.push(Class::Flush, 2, BLOCK);
        assert_eq!(send(&mut queue, 9), [1]);
        queue.completed(Class::Flush, BLOCK);
        assert_eq!(send(&mut queue, 9), [2]);
    }

    #[test]
    fn a_small_piece_does_not_overtake_a_large_one_that_does_not_fit() {
        let mut queue = queue(BLOCK, 9);
        queue.push(Class::Compaction, 1, 4 * KIB);
        queue.push(Class::Compaction, 2, BLOCK);
        queue.push(Class::Compaction, 3, 4 * KIB);
        assert_eq!(send(&mut queue, 9), [1]);
        queue.completed(Class::Compaction, 4 * KIB);
        assert_eq!(send(&mut queue, 9), [2]);
    }

    #[test]
    fn the_foreground_passes_and_where_it_must_wait_for_room_it_waits_before_the_background() {
        let mut queue = queue(9 * BLOCK, 9);
        queue.push(Class::Compaction, 1, BLOCK);
        queue.push(Class::Compaction, 2, BLOCK);
        assert!(queue.passes(Class::Foreground) && !queue.passes(Class::Flush));
        assert_eq!(send(&mut queue, 1), [1]);
        queue.push(Class::Foreground, 100, 4 * KIB);
        queue.push(Class::Foreground, 101, 4 * KIB);
        assert!(!queue.passes(Class::Foreground), "what comes now does not overtake what waits");
        assert_eq!(send(&mut queue, 9), [100, 101, 2]);
    }

    #[test]
    fn of_a_background_that_waits_one_piece_goes_before_any_number_of_foreground() {
        let mut queue = queue(9 * BLOCK, 9);
        (0..50).for_each(|key| queue.push(Class::Foreground, 100 + key, 4 * KIB));
        queue.push(Class::Checkpoint, 1, BLOCK);
        queue.push(Class::Checkpoint, 2, BLOCK);
        assert_eq!(send(&mut queue, 2), [1, 100]);
        queue.completed(Class::Checkpoint, BLOCK);
        assert_eq!(send(&mut queue, 2), [2, 101]);
    }

    #[test]
    fn what_is_sent_again_keeps_its_place_and_is_counted_for_what_is_left() {
        let mut queue = queue(2 * BLOCK, 9);
        (1..5).for_each(|key| queue.push(Class::Compaction, key, BLOCK));
        assert_eq!(send(&mut queue, 9), [1, 2]);
        queue.completed(Class::Compaction, BLOCK);
        queue.push_again(Class::Compaction, 1, 4 * KIB);
        assert_eq!(send(&mut queue, 9), [1]);
        queue.completed(Class::Compaction, 4 * KIB);
        assert_eq!(send(&mut queue, 9), [3]);
        (0..2).for_each(|_| queue.completed(Class::Compaction, BLOCK));
        assert_eq!(send(&mut queue, 9), [4]);
        queue.completed(Class::Compaction, BLOCK);
        assert!(queue.background_is_idle());
    }

    #[test]
    fn what_is_removed_is_everything_that_waits() {
        let mut queue = queue(BLOCK, 9);
        queue.push(Class::Flush, 1, BLOCK);
        assert_eq!(send(&mut queue, 9), [1]);
        queue.push(Class::Compaction, 2, BLOCK);
        queue.push(Class::Foreground, 3, BLOCK);
        assert_eq!([queue.remove(), queue.remove(), queue.remove()], [Some(3), Some(2), None]);
        queue.completed(Class::Flush, BLOCK);
        assert!(queue.background_is_idle());
    }

    #[test]
    fn a_class_that_asks_for_little_is_next_when_it_comes() {
        let mut queue = queue(BLOCK, 1);
        (0..100).for_each(|key| queue.push(Class::Compaction, key, BLOCK));
        for _ in 0..20 {
            send(&mut queue, 9);
            queue.push(Class::Flush, 1000, BLOCK);
            queue.completed(Class::Compaction, BLOCK);
            assert_eq!(send(&mut queue, 9), [1000]);
            queue.completed(Class::Flush, BLOCK);
        }
    }

    #[test]
    fn a_class_that_was_away_has_no_claim_on_what_it_did_not_need() {
        let mut queue = queue(BLOCK, 1);
        for _ in 0..1000 {
            queue.push(Class::Checkpoint, 1, BLOCK);
            assert_eq!(send(&mut queue, 9), [1]);
            queue.completed(Class::Checkpoint, BLOCK);
        }
        (0..50).for_each(|_| queue.push(Class::Flush, 2, BLOCK));
        queue.push(Class::Checkpoint, 1, BLOCK);
        let mut flushes = 0;
        while send(&mut queue, 1) == [2] {
            flushes += 1;
            queue.completed(Class::Flush, BLOCK);
        }
        assert_eq!(
            flushes, 5,
            "four for the share that the checkpoint had last, and one more at the same time as the next"
        );
    }

    /// Invariant 4, over random arrivals of random sizes.
    #[test]
    fn no_class_starves_another() {
        let weights = [4u64, 2, 1];
        for seed in 0..if cfg!(miri) { 3 } else { 300 } {
            let mut random = Random::new(seed);
            let mut queue = queue(1 + random.below(4) * BLOCK, 1 + random.below(8) as u32);
            let cost_max = BLOCK + COMMAND_COST_BYTES;
            let mut pieces = BTreeMap::new();
            let mut sent = VecDeque::new();
            // For each class that waits: the cost of the piece that it sent last, and what the others have sent since.
            let mut since: [Option<(u64, [u64; 3])>; 3] = [None; 3];
            for _ in 0..600 {
                for _ in 0..random.below(3) {
                    let (key, index) = (pieces.len() as u64, random.below(3) as usize);
                    let bytes = [0, 4 * KIB, 256 * KIB, BLOCK][random.below(4) as usize];
                    pieces.insert(key, (index, bytes));
                    queue.push(Class::BACKGROUND[index], key, bytes);
                }
                while let Some((Line::Background(index), key)) = queue.next() {
                    queue.sent(Line::Background(index));
                    let (_, bytes) = pieces[&key];
                    sent.push_back(key);
                    let cost = bytes + COMMAND_COST_BYTES;
                    for (other, since) in since.iter_mut().enumerate().filter(|(other, _)| *other != index) {
                        let Some((own, costs)) = since else { continue };
                        costs[index] += cost;
                        let most = *own * weights[index] / weights[other] + cost_max;
                        assert!(
                            costs[index] <= most,
                            "class {index} sent {} before {other}, at most {most}",
                            costs[index]
                        );
                    }
                    since[index] = Some((cost, [0; 3]));
                    for (index, since) in since.iter_mut().enumerate() {
                        if queue.background[index].pieces.is_empty() {
                            *since = None;
                        }
                    }
                }
                if random.chance(0.7)
                    && let Some(key) = sent.pop_front()
                {
                    queue.completed(Class::BACKGROUND[pieces[&key].0], pieces[&key].1);
                }
            }
        }
    }

    #[test]
    fn a_divided_budget_lets_each_do_something_and_none_more_than_all() {
        let whole = IoBudget { background_bytes_max: 2 << 20, background_ops_max: 32 };
        assert_eq!(whole.divided(1), whole);
        assert_eq!(whole.divided(2), IoBudget { background_bytes_max: 1 << 20, background_ops_max: 16 });
        assert_eq!(whole.divided(100), IoBudget { background_bytes_max: 512 << 10, background_ops_max: 4 });
        let least = IoBudget { background_bytes_max: 4096, background_ops_max: 1 };
        assert_eq!(least.divided(7), least);
    }

    #[test]
    fn classes_that_always_wait_share_by_their_weights() {
        let mut queue = queue(BLOCK, 1);
        let mut counts = [0; 3];
        for index in 0..3 {
            (0..800).for_each(|_| queue.push(Class::BACKGROUND[index], index as u64, BLOCK));
        }
        for _ in 0..700 {
            let index = send(&mut queue, 1)[0] as usize;
            counts[index] += 1;
            queue.completed(Class::BACKGROUND[index], BLOCK);
        }
        assert_eq!(counts, [400, 200, 100]);
    }

    /// A device that serves one piece after the other, in the order in which they were sent, at a MiB in a millisecond. Gives when the background's
    /// 200 blocks were done, and how long the longest of the reads waited that came every three milliseconds.
    fn served(budget: IoBudget, reads: bool) -> (u64, u64) {
        const READ: u64 = 1 << 40;
        let mut queue = Queue::new(budget, [4, 2, 1]);
        (0..200).for_each(|key| queue.push(Class::Compaction, key, BLOCK));
        let mut device = VecDeque::new();
        let (mut now_us, mut next_read_us, mut longest_us, mut done) = (0, 0, 0, 0);
        loop {
            while reads && done < 200 && next_read_us <= now_us {
                assert!(queue.passes(Class::Foreground));
                device.push_back((READ, next_read_us));
                next_read_us += 3000;
            }
            device.extend(send(&mut queue, usize::MAX).into_iter().map(|key| (key, 0)));
            let Some((key, since_us)) = device.pop_front() else { break };
            if key == READ {
                now_us += 4;
                longest_us = longest_us.max(now_us - since_us);
            } else {
                now_us += 500;
                done += 1;
                queue.completed(Class::Compaction, BLOCK);
            }
        }
        assert_eq!(done, 200, "the device is idle while pieces wait");
        (now_us, longest_us)
    }

    #[test]
    fn reads_wait_for_the_budget_at_most_and_the_background_loses_no_throughput() {
        let budget = IoBudget { background_bytes_max: 4 * BLOCK, background_ops_max: 32 };
        let (_, unlimited_us) = served(IoBudget::UNLIMITED, true);
        let (_, limited_us) = served(budget, true);
        assert!(unlimited_us > 50_000 && limited_us <= 5 * 500 + 4, "{unlimited_us} {limited_us}");
        assert_eq!(served(budget, false).0, served(IoBudget::UNLIMITED, false).0);
    }
}
