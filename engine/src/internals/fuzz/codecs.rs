//! What users' keys, values and options become, and back.

use arbitrary::{Arbitrary, Unstructured};

use super::damage::Damage;
use super::split_key;
use crate::shard::{decode_options, encode_options};
use crate::state::{Codec, EncodeBuf, KeyCodec, Postcard, decode_elements, split_prefixed, split_timer};

/// Keys of typed state: what is accepted is written back as it was, and sorts as its bytes do.
pub fn key_codec(bytes: &[u8]) {
    let (left, right) = split_key(bytes);
    keys_of::<u64>(left, right);
    keys_of::<i32>(left, right);
    keys_of::<String>(left, right);
    keys_of::<Vec<u8>>(left, right);
    keys_of::<(String, i64)>(left, right);
    keys_of::<(Vec<u8>, String, bool)>(left, right);
    keys_of::<[u8; 3]>(left, right);
    let _ = (split_prefixed(bytes), split_timer(bytes));
}

fn keys_of<K: KeyCodec + Ord>(left: &[u8], right: &[u8]) {
    let encoded = |key: &K| {
        let mut out = EncodeBuf::new();
        key.encode_key(&mut out);
        out.to_vec()
    };
    let (left, right) = (K::decode_key(left).map(|key| (key, left)), K::decode_key(right).map(|key| (key, right)));
    for (key, bytes) in left.iter().chain(&right) {
        assert_eq!(encoded(key), *bytes, "a key has one encoding");
    }
    if let (Ok((left, left_bytes)), Ok((right, right_bytes))) = (&left, &right) {
        assert_eq!(left.cmp(right), left_bytes.cmp(right_bytes), "keys sort as their bytes do");
    }
}

/// Values of typed state.
pub fn state_codec(bytes: &[u8]) {
    type Nested = (u8, Option<Vec<(String, i64)>>, [bool; 3]);
    fn value<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) {
        let Ok(value) = <Postcard as Codec<T>>::decode(bytes) else { return };
        let mut out = EncodeBuf::new();
        Postcard::encode(&value, &mut out).expect("what was decoded can be encoded");
        <Postcard as Codec<T>>::decode(&out).expect("what was encoded can be decoded");
    }
    value::<u64>(bytes);
    value::<String>(bytes);
    value::<Nested>(bytes);
    value::<std::collections::BTreeMap<String, Vec<f64>>>(bytes);
    for elements in decode_elements(bytes).into_iter().flatten() {
        assert!(
            elements.iter().map(|element| element.len() + 1).sum::<usize>() < bytes.len(),
            "elements are in the record"
        );
    }
}

/// Typed keys and values: they read back, keys sort as their bytes do, and damaged bytes decode or are an error.
pub fn typed_values(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let input = &mut input;
    let _ = typed_keys::<u64>(input)
        .and_then(|()| typed_keys::<i32>(input))
        .and_then(|()| typed_keys::<String>(input))
        .and_then(|()| typed_keys::<(Vec<u8>, i64)>(input))
        .and_then(|()| typed_keys::<(String, Vec<u8>, bool)>(input))
        .and_then(|()| typed_value::<(u8, Option<Vec<(String, i64)>>, [bool; 3])>(input))
        .and_then(|()| typed_value::<std::collections::BTreeMap<String, Vec<u32>>>(input))
        .and_then(|()| typed_value::<Vec<Result<u16, String>>>(input));
}

fn typed_keys<'a, K: KeyCodec + Ord + Arbitrary<'a> + std::fmt::Debug>(
    input: &mut Unstructured<'a>,
) -> arbitrary::Result<()> {
    let (left, right): (K, K) = input.arbitrary()?;
    let damage = Damage::arbitrary(input)?;
    let [mut left_bytes, right_bytes] = [&left, &right].map(|key| {
        let mut out = EncodeBuf::new();
        key.encode_key(&mut out);
        out.to_vec()
    });
    assert_eq!(K::decode_key(&left_bytes).expect("a key reads back"), left);
    assert_eq!(left.cmp(&right), left_bytes.cmp(&right_bytes), "{left:?} and {right:?} sort as their bytes do");
    damage.apply(&mut left_bytes);
    keys_of::<K>(&left_bytes, &right_bytes);
    Ok(())
}

fn typed_value<'a, T>(input: &mut Unstructured<'a>) -> arbitrary::Result<()>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Arbitrary<'a> + PartialEq + std::fmt::Debug,
{
    let value = T::arbitrary(input)?;
    let damage = Damage::arbitrary(input)?;
    let mut out = EncodeBuf::new();
    Postcard::encode(&value, &mut out).expect("plain data can be encoded");
    let mut bytes = out.to_vec();
    assert_eq!(<Postcard as Codec<T>>::decode(&bytes).expect("a value reads back"), value);
    damage.apply(&mut bytes);
    let _ = <Postcard as Codec<T>>::decode(&bytes);
    Ok(())
}

/// The stored options of a keyspace.
pub fn keyspace_options(bytes: &[u8]) {
    if let Ok(options) = decode_options("fuzzed", bytes) {
        let again = decode_options("fuzzed", &encode_options(&options)).expect("what was just written");
        assert_eq!(again, options);
    }
}
