//! How a value becomes bytes: by serde and postcard unless the state's type says otherwise.
//!
//! A codec is a type without values, named as the last parameter of a state: `ValueState<String, Order>` uses [`Postcard`],
//! `ValueState<String, Order, ByHand>` uses `ByHand`. What is stored is what the codec writes, with nothing around it; a value that no
//! longer decodes is [`Error::Codec`], never a panic.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::buf::EncodeBuf;
use crate::{Error, Result};

/// Turns values of type `T` into bytes and back.
///
/// ```
/// use siltstone::state::{Codec, EncodeBuf};
/// use siltstone::{Error, Result};
///
/// /// A temperature in tenths of a degree, as two bytes.
/// struct Tenths;
///
/// impl Codec<f32> for Tenths {
///     fn encode(value: &f32, out: &mut EncodeBuf) -> Result<()> {
///         out.extend_from_slice(&((value * 10.0).round() as i16).to_le_bytes());
///         Ok(())
///     }
///     fn decode(bytes: &[u8]) -> Result<f32> {
///         let bytes = bytes.try_into().map_err(|_| Error::Codec { what: "a temperature", reason: "not two bytes".into() })?;
///         Ok(f32::from(i16::from_le_bytes(bytes)) / 10.0)
///     }
/// }
///
/// let mut bytes = EncodeBuf::new();
/// Tenths::encode(&21.5, &mut bytes)?;
/// assert_eq!(Tenths::decode(&bytes)?, 21.5);
/// # Ok::<(), siltstone::Error>(())
/// ```
pub trait Codec<T>: 'static {
    /// Appends the value's encoding.
    fn encode(value: &T, out: &mut EncodeBuf) -> Result<()>;

    /// Decodes an encoding, all of it; [`Error::Codec`] where it is none.
    fn decode(bytes: &[u8]) -> Result<T>;
}

/// The default codec: any serde type, in postcard's compact binary format (integers as varints, no field names).
///
/// Fields may not be added to or removed from a stored type: postcard's format does not describe itself.
///
/// ```
/// use siltstone::state::{Codec, EncodeBuf, Postcard};
///
/// let mut bytes = EncodeBuf::new();
/// Postcard::encode(&(300u64, "abc".to_string()), &mut bytes)?;
/// assert_eq!(bytes.len(), 2 + 1 + 3);
/// assert_eq!(<Postcard as Codec<(u64, String)>>::decode(&bytes)?, (300, "abc".to_string()));
/// # Ok::<(), siltstone::Error>(())
/// ```
#[derive(Debug)]
pub enum Postcard {}

impl<T: Serialize + DeserializeOwned> Codec<T> for Postcard {
    #[inline]
    fn encode(value: &T, out: &mut EncodeBuf) -> Result<()> {
        postcard::serialize_with_flavor(value, Sink(out)).map_err(malformed)
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<T> {
        let (value, rest) = postcard::take_from_bytes(bytes).map_err(malformed)?;
        if rest.is_empty() {
            Ok(value)
        } else {
            Err(Error::Codec { what: "a value", reason: format!("{} bytes too many", rest.len()) })
        }
    }
}

fn malformed(error: postcard::Error) -> Error {
    Error::Codec { what: "a value", reason: error.to_string() }
}

struct Sink<'a>(&'a mut EncodeBuf);

impl Flavor for Sink<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// The codec of bytes that are stored as they are.
///
/// ```
/// use siltstone::state::{Codec, EncodeBuf, Raw};
///
/// let mut bytes = EncodeBuf::new();
/// Raw::encode(&b"as it is".to_vec(), &mut bytes)?;
/// assert_eq!(&*bytes, b"as it is");
/// # Ok::<(), siltstone::Error>(())
/// ```
#[derive(Debug)]
pub enum Raw {}

impl Codec<Vec<u8>> for Raw {
    fn encode(value: &Vec<u8>, out: &mut EncodeBuf) -> Result<()> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Value = (i64, Option<String>, Vec<u16>);

    proptest! {
        #[test]
        fn postcard_round_trips(value: Value) {
            let mut buf = EncodeBuf::new();
            Postcard::encode(&value, &mut buf).unwrap();
            prop_assert_eq!(<Postcard as Codec<Value>>::decode(&buf).unwrap(), value);
        }

        #[test]
        fn postcard_refuses_or_decodes_any_bytes(bytes: Vec<u8>) {
            let _: Result<Value> = Postcard::decode(&bytes);
        }
    }

    #[test]
    fn bytes_after_the_value_are_refused() {
        assert!(matches!(<Postcard as Codec<u8>>::decode(&[1, 2]), Err(Error::Codec { .. })));
        assert!(matches!(<Postcard as Codec<u8>>::decode(&[]), Err(Error::Codec { .. })));
    }
}
