//! What a control struct is, as text, computed from its definition: a serde deserializer that reads nothing, hands out the
//! least value of whatever is asked for, and writes down names and types on the way. So no text has to be kept in step by
//! hand, and a field that changes changes the hash that both ends compare.

use std::fmt::{self, Write as _};

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};

/// A struct as the schema text has it: `Name{field:type,…}`, with a list as `[type]` and a struct inside as `{…}`.
///
/// # Errors
/// What the wire has no room for: an enum, an option, a map. Their numbers are fields of their own.
pub fn describe<T: DeserializeOwned>() -> Result<String, NotDescribable> {
    let mut text = String::new();
    T::deserialize(Tracer { text: &mut text, top: true })?;
    Ok(text)
}

/// A type that no control struct may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotDescribable(String);

impl de::Error for NotDescribable {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self(what.to_string())
    }
}

struct Tracer<'t> {
    text: &'t mut String,
    top: bool,
}

/// Elements of a list, a tuple or a struct: one after the other, each with what stands in front of it.
struct Parts<'t, 'f> {
    text: &'t mut String,
    names: &'f [&'static str],
    at: usize,
    count: usize,
}

impl<'de> SeqAccess<'de> for Parts<'_, '_> {
    type Error = NotDescribable;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, NotDescribable> {
        if self.at == self.count {
            return Ok(None);
        }
        if self.at > 0 {
            self.text.push(',');
        }
        if let Some(name) = self.names.get(self.at) {
            let _ = write!(self.text, "{name}:");
        }
        self.at += 1;
        seed.deserialize(Tracer { text: self.text, top: false }).map(Some)
    }
}

/// Values that are one word of the schema text each: the least one there is.
macro_rules! words {
    ($($method:ident => $visit:ident($value:expr), $name:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotDescribable> {
            self.text.push_str($name);
            visitor.$visit($value)
        })*
    };
}

/// What the wire has no room for.
macro_rules! nothing {
    ($($method:ident($($argument:ty),*), $what:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, $(_: $argument,)* _: V) -> Result<V::Value, NotDescribable> {
            Err(NotDescribable::custom(concat!("no ", $what, " on the wire")))
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = NotDescribable;

    words! {
        deserialize_bool => visit_bool(false), "bool";
        deserialize_u8 => visit_u8(0), "u8";
        deserialize_u16 => visit_u16(0), "u16";
        deserialize_u32 => visit_u32(0), "u32";
        deserialize_u64 => visit_u64(0), "u64";
        deserialize_i8 => visit_i8(0), "i8";
        deserialize_i16 => visit_i16(0), "i16";
        deserialize_i32 => visit_i32(0), "i32";
        deserialize_i64 => visit_i64(0), "i64";
        // A legal name too.
        deserialize_str => visit_str("a"), "str";
        deserialize_string => visit_str("a"), "str";
        deserialize_bytes => visit_bytes(&[]), "bytes";
        deserialize_byte_buf => visit_bytes(&[]), "bytes";
    }

    nothing! {
        deserialize_any(), "value without a type";
        deserialize_ignored_any(), "value without a type";
        deserialize_identifier(), "names of fields";
        deserialize_f32(), "floats";
        deserialize_f64(), "floats";
        deserialize_char(), "characters";
        deserialize_option(), "options";
        deserialize_unit(), "units";
        deserialize_unit_struct(&'static str), "units";
        deserialize_map(), "maps";
        deserialize_tuple_struct(&'static str, usize), "tuple structs";
        deserialize_enum(&'static str, &'static [&'static str]), "enums";
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, NotDescribable> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotDescribable> {
        self.text.push('[');
        let value = visitor.visit_seq(Parts { text: self.text, names: &[], at: 0, count: 1 })?;
        self.text.push(']');
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        count: usize,
        visitor: V,
    ) -> Result<V::Value, NotDescribable> {
        visitor.visit_seq(Parts { text: self.text, names: &[], at: 0, count })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NotDescribable> {
        if self.top {
            self.text.push_str(name);
        }
        self.text.push('{');
        let value = visitor.visit_seq(Parts { text: self.text, names, at: 0, count: names.len() })?;
        self.text.push('}');
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[allow(dead_code)] // Only its definition is of interest.
    struct Outer {
        number: u32,
        pairs: Vec<(u16, u64)>,
        inner: Vec<Inner>,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        text: String,
        words: Vec<u64>,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Optional {
        maybe: Option<u8>,
    }

    #[test]
    fn a_definition_becomes_its_text() {
        let text = "Outer{number:u32,pairs:[u16,u64],inner:[{text:str,words:[u64]}]}";
        assert_eq!(describe::<Outer>(), Ok(text.to_owned()));
    }

    #[test]
    fn what_the_wire_has_no_room_for_is_no_schema() {
        assert!(describe::<Optional>().unwrap_err().to_string().contains("options"));
        assert!(describe::<Result<u8, u8>>().unwrap_err().to_string().contains("enums"));
        assert!(describe::<std::collections::BTreeMap<u8, u8>>().is_err());
    }
}
