//! A named part of a run with options of its own: a model, a task, a method or a policy.
//!
//! The name is looked up in a table of constructors of the crate that builds the thing; the options are checked there too, so that
//! adding a method or a task changes nothing here. A component is written as a string (`"lora"`) or as a table with its options
//! (`{ type = "lora", r = 8 }`); its canonical form is always the table, with every default filled in.

use crate::error::{Result, SpecError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// A name and its options.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// The name in the table of constructors, e.g. `lora`, `tiny-mamba`, `world/sentiment`.
    pub name: String,
    /// Options, by Hugging Face's names where it has one.
    pub options: Map<String, Value>,
}

/// The key that holds a component's name when it is written as a table.
const NAME_KEY: &str = "type";

impl Component {
    /// A component with no options given.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), options: Map::new() }
    }

    /// Reads the string or table form.
    pub fn from_value(value: &Value) -> Result<Self> {
        match value {
            Value::String(name) => Ok(Self::named(name.clone())),
            Value::Object(table) => {
                let mut options = table.clone();
                match options.remove(NAME_KEY) {
                    Some(Value::String(name)) => Ok(Self { name, options }),
                    Some(other) => Err(SpecError::at(NAME_KEY, format!("expected a string, found {other}"))),
                    None => Err(SpecError::at("", format!("the table names no `{NAME_KEY}`, e.g. {{ {NAME_KEY} = \"lora\", r = 8 }}"))),
                }
            }
            other => Err(SpecError::at("", format!("expected a string or a table with `{NAME_KEY}`, found {other}"))),
        }
    }

    /// Reads a component as it is given on the command line: a name, or a TOML table such as `{ type = "lora", r = 8 }`.
    pub fn parse(text: &str) -> Result<Self> {
        Self::from_value(&crate::sweep_spec::parse_value(text))
    }

    /// The table form.
    pub fn to_value(&self) -> Value {
        let mut table = self.options.clone();
        table.insert(NAME_KEY.to_owned(), Value::String(self.name.clone()));
        Value::Object(table)
    }

    /// Reads the options into their typed form. `T` should be `#[serde(deny_unknown_fields, default)]`; an error names the option.
    pub fn parse_options<T: DeserializeOwned>(&self) -> Result<T> {
        crate::locate::deserialize(Value::Object(self.options.clone()))
    }

    /// The same component with its options replaced by the fully resolved `options`, which must serialise to a table.
    pub fn resolved<T: Serialize>(&self, options: &T) -> Result<Self> {
        match serde_json::to_value(options) {
            Ok(Value::Object(options)) => Ok(Self { name: self.name.clone(), options }),
            Ok(Value::Null) => Ok(Self::named(self.name.clone())),
            Ok(other) => Err(SpecError::at("", format!("options of `{}` resolve to {other}, not to a table", self.name))),
            Err(error) => Err(SpecError::at("", format!("options of `{}` cannot be written as JSON: {error}", self.name))),
        }
    }
}

impl Serialize for Component {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Component {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(&value).map_err(serde::de::Error::custom)
    }
}
