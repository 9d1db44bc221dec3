//! Whose turn it is: a link carries so many streams, and a file takes some of them.

/// Streams that files take of one link at the same time. It leaves most of what a link has (64) to
/// terminals, pages and folders.
pub const LANES: usize = 16;
/// Streams that carry one file at the same time: one is held up by its own round trips.
pub const STREAMS: usize = 4;

/// A file on its way, as the queue sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Streams that it takes, or will.
    pub lanes: usize,
    pub turn: Turn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It has its streams.
    Has,
    /// It waits for them.
    Wants,
    /// It is at rest.
    Rests,
}

/// Places of those whose turn has come, in order. One that is larger than what is free holds up those
/// behind it, so that it gets its turn.
pub fn next(all: &[Waiting]) -> Vec<usize> {
    let lanes = |it: &Waiting| it.lanes.min(LANES);
    let has = all.iter().filter(|it| it.turn == Turn::Has);
    let mut taken: usize = has.map(lanes).sum();
    let mut begin = Vec::new();
    for (at, it) in all.iter().enumerate() {
        if it.turn != Turn::Wants {
            continue;
        }
        if taken + lanes(it) > LANES {
            break;
        }
        taken += lanes(it);
        begin.push(at);
    }
    begin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lanes: usize, turn: Turn) -> Waiting {
        Waiting { lanes, turn }
    }

    #[test]
    fn few_at_a_time_in_order() {
        let small = [of(2, Turn::Wants); 300];
        assert_eq!(next(&small), (0..8).collect::<Vec<_>>());
        let mut some = small;
        for it in &mut some[..8] {
            it.turn = Turn::Has;
        }
        assert_eq!(next(&some), [] as [usize; 0]);
        some[3].turn = Turn::Rests;
        assert_eq!(next(&some), [8]);
    }

    #[test]
    fn a_large_one_gets_its_turn_and_is_not_overtaken() {
        let all = [
            of(5, Turn::Has),
            of(5, Turn::Has),
            of(5, Turn::Has),
            of(5, Turn::Wants),
            of(1, Turn::Wants),
        ];
        assert_eq!(next(&all), [] as [usize; 0]);
        // One that wants more than there is gets all.
        assert_eq!(next(&[of(99, Turn::Wants), of(1, Turn::Wants)]), [0]);
    }
}
