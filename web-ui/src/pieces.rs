//! What of a file is still to be carried, in pieces that several streams take in order.

/// Bytes of the piece that one stream carries before it takes the next.
pub const PIECE: u64 = 8 << 20;

/// Bytes from the first to before the second.
pub type Range = (u64, u64);

/// The pieces of a file that are missing, given out in order; what was begun and broke off comes
/// back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    missing: Vec<Range>,
    largest: u64,
}

impl Pieces {
    /// Of a file of `size` bytes of which `have` is here: sorted ranges that do not touch.
    pub fn new(size: u64, have: &[Range], largest: u64) -> Self {
        let mut missing = Vec::new();
        let mut at = 0;
        for &(start, end) in have {
            if start > at {
                missing.push((at, start.min(size)));
            }
            at = at.max(end);
        }
        if at < size {
            missing.push((at, size));
        }
        missing.reverse();
        Self {
            missing,
            largest: largest.max(1),
        }
    }

    /// The next piece.
    pub fn take(&mut self) -> Option<Range> {
        let (start, end) = self.missing.pop()?;
        let cut = end.min(start.saturating_add(self.largest));
        if cut < end {
            self.missing.push((cut, end));
        }
        Some((start, cut))
    }
}

/// Adds a range to sorted ranges that do not touch, and keeps them so.
pub fn add(have: &mut Vec<Range>, new: Range) {
    if new.0 >= new.1 {
        return;
    }
    let first = have.partition_point(|range| range.1 < new.0);
    let last = have.partition_point(|range| range.0 <= new.1);
    let merged = have[first..last]
        .iter()
        .fold(new, |all, range| (all.0.min(range.0), all.1.max(range.1)));
    have.splice(first..last, [merged]);
}

/// Bytes in all ranges.
pub fn total(have: &[Range]) -> u64 {
    have.iter().map(|(start, end)| end - start).sum()
}

/// How far the file is here without a gap.
pub fn prefix(have: &[Range]) -> u64 {
    match have.first() {
        Some(&(0, end)) => end,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut pieces: Pieces) -> Vec<Range> {
        std::iter::from_fn(|| pieces.take()).collect()
    }

    #[test]
    fn a_file_is_cut_in_order() {
        assert_eq!(all(Pieces::new(10, &[], 4)), [(0, 4), (4, 8), (8, 10)]);
        assert_eq!(all(Pieces::new(0, &[], 4)), []);
        assert_eq!(all(Pieces::new(4, &[], 4)), [(0, 4)]);
    }

    #[test]
    fn what_is_here_is_left_out() {
        let have = [(2, 4), (6, 8)];
        assert_eq!(all(Pieces::new(10, &have, 100)), [(0, 2), (4, 6), (8, 10)]);
        assert_eq!(all(Pieces::new(8, &have, 100)), [(0, 2), (4, 6)]);
        assert_eq!(all(Pieces::new(8, &[(0, 8)], 100)), []);
    }

    #[test]
    fn ranges_are_merged_where_they_touch() {
        let mut have = Vec::new();
        for (new, expected) in [
            ((10, 20), vec![(10, 20)]),
            ((30, 40), vec![(10, 20), (30, 40)]),
            ((5, 5), vec![(10, 20), (30, 40)]),
            ((20, 30), vec![(10, 40)]),
            ((0, 10), vec![(0, 40)]),
            ((3, 50), vec![(0, 50)]),
        ] {
            add(&mut have, new);
            assert_eq!(have, expected);
        }
        assert_eq!(total(&[(0, 5), (7, 9)]), 7);
        assert_eq!(prefix(&[(0, 5), (7, 9)]), 5);
        assert_eq!(prefix(&[(1, 5)]), 0);
    }
}
