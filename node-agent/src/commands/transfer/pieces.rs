//! The pieces of a file that are under way at the same time, each on a stream of its own.

use ringback_protocol::service::files::Range;

/// Streams at a time.
pub(super) const STREAMS: usize = 4;
/// Bytes of one stream at most: what is lost at once when the link breaks.
const PIECE: u64 = 16 * 1024 * 1024;

/// Cuts what is missing into pieces, the last one first: they are taken from the end.
pub(super) fn pieces(missing: &[Range]) -> Vec<Range> {
    let mut pieces = Vec::new();
    for range in missing {
        let mut at = range.0;
        while at < range.1 {
            let end = (at + PIECE).min(range.1);
            pieces.push(Range(at, end));
            at = end;
        }
    }
    pieces.reverse();
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_cut_into_pieces() {
        let cut = pieces(&[Range(5, 6), Range(PIECE, 2 * PIECE + 1)]);
        let expected = [
            Range(2 * PIECE, 2 * PIECE + 1),
            Range(PIECE, 2 * PIECE),
            Range(5, 6),
        ];
        assert_eq!(cut, expected);
    }
}
