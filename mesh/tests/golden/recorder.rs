//! A serde serializer that writes down names and types instead of values: a second look at what a struct is, from the side
//! that writes.

use serde::ser::{self, Error as _, Serialize, Serializer};

/// A top-level struct as the schema text has it.
pub(crate) fn describe(value: &impl Serialize) -> String {
    value.serialize(Recorder { top: true }).expect("describable")
}

#[derive(Clone, Copy)]
struct Recorder {
    top: bool,
}

type Error = std::fmt::Error;

struct Parts {
    open: String,
    parts: Vec<String>,
    close: &'static str,
}

impl Parts {
    fn add(&mut self, key: Option<&str>, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        let kind = value.serialize(Recorder { top: false })?;
        self.parts.push(key.map_or(kind.clone(), |key| format!("{key}:{kind}")));
        Ok(())
    }

    fn text(self) -> String {
        format!("{}{}{}", self.open, self.parts.join(","), self.close)
    }
}

impl ser::SerializeStruct for Parts {
    type Ok = String;
    type Error = Error;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.add(Some(key), value)
    }
    fn end(self) -> Result<String, Error> {
        Ok(self.text())
    }
}

impl ser::SerializeSeq for Parts {
    type Ok = String;
    type Error = Error;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.add(None, value)
    }
    fn end(mut self) -> Result<String, Error> {
        self.parts.dedup();
        if self.parts.len() == 1 { Ok(self.text()) } else { Err(Error::custom("one kind of element")) }
    }
}

impl ser::SerializeTuple for Parts {
    type Ok = String;
    type Error = Error;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.add(None, value)
    }
    fn end(self) -> Result<String, Error> {
        Ok(self.text())
    }
}

macro_rules! named {
    ($($method:ident: $type:ty => $name:literal),* $(,)?) => {
        $(fn $method(self, _: $type) -> Result<String, Error> {
            Ok($name.to_owned())
        })*
    };
}

impl Serializer for Recorder {
    type Ok = String;
    type Error = Error;
    type SerializeSeq = Parts;
    type SerializeTuple = Parts;
    type SerializeTupleStruct = ser::Impossible<String, Error>;
    type SerializeTupleVariant = ser::Impossible<String, Error>;
    type SerializeMap = ser::Impossible<String, Error>;
    type SerializeStruct = Parts;
    type SerializeStructVariant = ser::Impossible<String, Error>;

    named!(
        serialize_bool: bool => "bool", serialize_i8: i8 => "i8", serialize_i16: i16 => "i16",
        serialize_i32: i32 => "i32", serialize_i64: i64 => "i64", serialize_u8: u8 => "u8",
        serialize_u16: u16 => "u16", serialize_u32: u32 => "u32", serialize_u64: u64 => "u64",
        serialize_f32: f32 => "f32", serialize_f64: f64 => "f64", serialize_char: char => "char",
        serialize_str: &str => "str", serialize_bytes: &[u8] => "bytes",
    );

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<String, Error> {
        value.serialize(self)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Parts, Error> {
        Ok(Parts { open: "[".to_owned(), parts: Vec::new(), close: "]" })
    }
    fn serialize_tuple(self, _: usize) -> Result<Parts, Error> {
        Ok(Parts { open: String::new(), parts: Vec::new(), close: "" })
    }
    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Parts, Error> {
        let open = if self.top { format!("{name}{{") } else { "{".to_owned() };
        Ok(Parts { open, parts: Vec::new(), close: "}" })
    }

    fn serialize_none(self) -> Result<String, Error> {
        Err(Error::custom("no options on the wire"))
    }
    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<String, Error> {
        Err(Error::custom("no options on the wire"))
    }
    fn serialize_unit(self) -> Result<String, Error> {
        Err(Error::custom("no units on the wire"))
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<String, Error> {
        Err(Error::custom("no units on the wire"))
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<String, Error> {
        Err(Error::custom("no enums on the wire: their numbers are fields"))
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<String, Error> {
        Err(Error::custom("no enums on the wire: their numbers are fields"))
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Error> {
        Err(Error::custom("no tuple structs on the wire"))
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        Err(Error::custom("no enums on the wire: their numbers are fields"))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Error> {
        Err(Error::custom("no maps on the wire"))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        Err(Error::custom("no enums on the wire: their numbers are fields"))
    }
}
