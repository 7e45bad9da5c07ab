//! The marks that a workload writes into its trace. `docs/trace-format.md` has them for other readers.

/// The workload begins, before the engine is opened. Words: shards, seed. Payload: how to repeat it, as text.
pub const BEGIN: u8 = 1;
/// A batch is in a memtable and in the log's buffer: from here on it may reach the device. Words: number of the batch, shard. Payload: [`changes`].
pub const APPLIED: u8 = 2;
/// The engine has said that the batch is durable. Words: number of the batch, 0.
pub const DURABLE: u8 = 3;
/// A checkpoint of everything that was applied so far is asked for. Words: its number (0, 1, ...), 0. Payload: its name.
pub const CHECKPOINT_BEGUN: u8 = 4;
/// It is complete by the engine's word. Words: its number, 0.
pub const CHECKPOINT_DONE: u8 = 5;
/// Behind [`BEGIN`]: the engine keeps no log, and opens on its last checkpoint. Words: 0, 0.
pub const WITHOUT_LOG: u8 = 6;

/// In place of a value's length: the key is deleted.
const DELETED: u32 = u32::MAX;

/// A key, and its value or nothing where it is deleted.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// The payload of [`APPLIED`]: for each change the key's length (u16), the key, the value's length (u32, all ones for a deletion), the value.
pub fn changes(changes: &[Change]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (key, value) in changes {
        payload.extend_from_slice(&(key.len() as u16).to_le_bytes());
        payload.extend_from_slice(key);
        payload.extend_from_slice(&value.as_ref().map_or(DELETED, |value| value.len() as u32).to_le_bytes());
        payload.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    payload
}

/// The changes in such a payload; nothing where it is cut short.
pub fn parse_changes(mut payload: &[u8]) -> Option<Vec<Change>> {
    let mut found = Vec::new();
    while !payload.is_empty() {
        let (len, rest) = payload.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len);
        let (value, rest) = match len {
            DELETED => (None, rest),
            len => rest.split_at_checked(len as usize).map(|(value, rest)| (Some(value.to_vec()), rest))?,
        };
        found.push((key.to_vec(), value));
        payload = rest;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_and_cut_ones_do_not() {
        let all =
            vec![(b"k".to_vec(), Some(b"value".to_vec())), (b"gone".to_vec(), None), (b"".to_vec(), Some(vec![]))];
        let payload = changes(&all);
        assert_eq!(parse_changes(&payload), Some(all));
        assert_eq!(parse_changes(&payload[..payload.len() - 1]), None);
    }
}
