//! Which request comes next.

use super::args::Order;
use super::pace::Random;

/// The order of one thread's requests, without an end.
pub struct Picker {
    order: Vec<u32>,
    at: usize,
    shuffle: Option<Random>,
}

impl Picker {
    /// The order of thread `thread` of `threads` over `count` requests.
    pub fn new(count: usize, order: Order, seed: u64, thread: usize, threads: usize) -> Self {
        let shuffle = (order == Order::Shuffle).then(|| Random::new(seed.wrapping_add(thread as u64 + 1)));
        // Threads begin apart, so that they do not all send the same image at a time.
        let at = thread * count / threads.max(1);
        let mut picker = Self { order: (0..count as u32).collect(), at, shuffle };
        picker.mix();
        picker
    }

    /// Fisher and Yates.
    fn mix(&mut self) {
        let Some(random) = &mut self.shuffle else { return };
        for last in (1..self.order.len()).rev() {
            self.order.swap(last, random.below(last + 1));
        }
    }

    /// The index of the next request.
    pub fn next(&mut self) -> usize {
        if self.at >= self.order.len() {
            self.at = 0;
            self.mix();
        }
        let index = self.order[self.at] as usize;
        self.at += 1;
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_comes_once_before_any_comes_twice() {
        for (order, thread) in
            [(Order::Cycle, 0), (Order::Cycle, 1), (Order::Shuffle, 0), (Order::Shuffle, 1)]
        {
            let mut picker = Picker::new(10, order, 7, thread, 2);
            // A thread that begins within the first pass ends it early.
            let first: Vec<usize> = (0..10 - 5 * thread).map(|_| picker.next()).collect();
            let mut pass: Vec<usize> = (0..10).map(|_| picker.next()).collect();
            if order == Order::Cycle {
                assert_eq!((first[0], pass[0]), (5 * thread, 0), "thread {thread}");
            } else {
                assert_ne!(pass, (0..10).collect::<Vec<_>>(), "thread {thread}");
            }
            pass.sort_unstable();
            assert_eq!(pass, (0..10).collect::<Vec<_>>(), "{order:?}, thread {thread}");
        }
    }
}
