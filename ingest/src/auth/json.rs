//! Reads JSON objects that name each member once, all the way down.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Why bytes are no such object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not JSON, not an object, or nested too deeply.
    Malformed,
    /// A member is there twice: readers differ in which one they take.
    Duplicate,
}

/// Reads an object.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    let duplicate = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Unique(&duplicate)
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    match value {
        Ok(Value::Object(members)) => Ok(members),
        Err(_) if duplicate.get() => Err(Fault::Duplicate),
        Ok(_) | Err(_) => Err(Fault::Malformed),
    }
}

/// Reads a value; notes it if a member is there twice.
#[derive(Clone, Copy)]
struct Unique<'a>(&'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = vec![];
        while let Some(value) = items.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                self.0.set(true);
                return Err(A::Error::custom("a member is there twice"));
            }
            object.insert(name, members.next_value_seed(self)?);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_member_that_is_there_twice_is_refused_wherever_it_is() {
        for (text, fault) in [
            (r#"{"a":1,"a":1}"#, Fault::Duplicate),
            (r#"{"a":1,"\u0061":2}"#, Fault::Duplicate),
            (r#"{"a":{"b":[{"c":1,"d":2,"c":3}]}}"#, Fault::Duplicate),
            (r#"{"a":1"#, Fault::Malformed),
            (r#"{"a":1}{}"#, Fault::Malformed),
            (r#"{"a":1e999}"#, Fault::Malformed),
            ("[1]", Fault::Malformed),
            ("", Fault::Malformed),
        ] {
            assert_eq!(object(text.as_bytes()), Err(fault), "{text}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        assert_eq!(object(deep.as_bytes()), Err(Fault::Malformed));
    }

    proptest! {
        #[test]
        fn all_else_is_read_as_serde_json_does(text in r#"[\[\]{}:,"ab\\0-9.eE+ntrufls -]{0,40}"#) {
            let plain = serde_json::from_str::<Map<String, Value>>(&text).ok();
            match object(text.as_bytes()) {
                Ok(members) => prop_assert_eq!(Some(members), plain),
                Err(Fault::Malformed) => prop_assert_eq!(None, plain),
                Err(Fault::Duplicate) => {}
            }
        }
    }
}
