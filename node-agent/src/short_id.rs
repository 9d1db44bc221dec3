//! IDs as people give them: whole, or by their beginning where that says enough.

use ringback_protocol::PeerId;

use crate::failure::{Exit, Failure};

/// Characters of the shortest beginning, `rb1` included: what logs show of an ID has nine.
const SHORTEST: usize = 6;

/// The ID of `known` that `text` begins, or `text` as a whole ID, known or not. `None`: it is neither,
/// and may be a name.
pub(crate) fn pick(
    text: &str,
    known: impl IntoIterator<Item = PeerId>,
) -> Result<Option<PeerId>, Failure> {
    let error = match text.parse::<PeerId>() {
        Ok(id) => return Ok(Some(id)),
        Err(error) => error,
    };
    if !(text.starts_with("rb1") || text.starts_with("RB1")) {
        return Ok(None);
    }
    let lower = text.to_ascii_lowercase();
    let begins = |id: &PeerId| lower.len() >= SHORTEST && id.to_string().starts_with(&lower);
    let mut candidates: Vec<PeerId> = known.into_iter().filter(begins).collect();
    candidates.sort();
    candidates.dedup();
    match &candidates[..] {
        [] => Err(Failure::new(Exit::Usage, format!("'{text}': {error}"))),
        [id] => Ok(Some(*id)),
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(Failure::new(
                Exit::Usage,
                format!(
                    "'{text}' begins more than one ID; give one in full: {}",
                    several.join(", ")
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    #[test]
    fn a_beginning_is_unambiguous_or_refused() {
        let ids: Vec<PeerId> = (0..=255)
            .map(|number| SecretKey::from_seed(&[number; 32]).id())
            .collect();
        let whole = ids[7].to_string();
        assert_eq!(pick(&whole, []).unwrap(), Some(ids[7]), "known or not");
        let long = &whole[..20];
        assert_eq!(pick(long, ids.clone()).unwrap(), Some(ids[7]));
        let upper = long.to_ascii_uppercase();
        assert_eq!(pick(&upper, ids.clone()).unwrap(), Some(ids[7]));
        assert_eq!(pick("nas", ids.clone()).unwrap(), None);
        assert!(pick(&whole[..5], [ids[7]]).is_err(), "too short");
        assert!(pick(long, []).is_err());

        // Two of 4,096 begin with the same 3 characters behind `rb1`, or the test says so.
        let many = (0..4096_u32).map(|number| {
            let mut seed = [1; 32];
            seed[..4].copy_from_slice(&number.to_be_bytes());
            SecretKey::from_seed(&seed).id()
        });
        let mut many: Vec<String> = many.map(|id| id.to_string()).collect();
        many.sort();
        let twins = many.windows(2).find(|pair| pair[0][..6] == pair[1][..6]);
        let twins = twins.expect("two of them");
        let known: Vec<PeerId> = twins.iter().map(|id| id.parse().unwrap()).collect();
        let refused = pick(&twins[0][..6], known).unwrap_err().to_string();
        assert!(twins.iter().all(|id| refused.contains(id)), "{refused}");
    }
}
