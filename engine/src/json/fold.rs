//! Names of JSON members in any case, as Go's decoder takes them.

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer as _, MapAccess,
    SeqAccess, Visitor,
};
use serde_json::{Error, Map, Value};

/// Gives the members that a `T` has their names, wherever they are written in another case. What is
/// none of its members stays as it is; keys of maps are the client's own.
pub(crate) fn fold_case<T: DeserializeOwned>(value: &mut Value) {
    // Decoding tells which members are wanted where. Its result, and its error, come again.
    let _ = T::deserialize(Folding(value));
}

/// A value whose members are renamed as a type asks for them.
struct Folding<'a>(&'a mut Value);

fn rename(members: &mut Map<String, Value>, known: &[&str]) {
    let other = |name: &&str| {
        let same = |key: &&String| key.eq_ignore_ascii_case(name);
        let written = members.keys().find(same)?;
        (!members.contains_key(*name)).then(|| (written.clone(), (*name).to_owned()))
    };
    let renamed: Vec<_> = known.iter().filter_map(other).collect();
    for (written, name) in renamed {
        if let Some(value) = members.remove(&written) {
            members.insert(name, value);
        }
    }
}

impl<'de> Deserializer<'de> for Folding<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(members) => visitor.visit_map(Members::of(members)),
            Value::Array(items) => visitor.visit_seq(Items(items.iter_mut())),
            plain => plain.clone().deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &mut *self.0 {
            Value::Object(members) => rename(members, fields),
            // As nothing: what comes behind it is looked at, too.
            Value::Null => return visitor.visit_map(Members::of(&mut Map::new())),
            _ => {}
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.clone().deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'a>(std::slice::IterMut<'a, Value>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let item = self.0.next().map(|item| seed.deserialize(Folding(item)));
        item.transpose()
    }
}

struct Members<'a> {
    rest: serde_json::map::IterMut<'a>,
    value: Option<&'a mut Value>,
}

impl<'a> Members<'a> {
    fn of(members: &'a mut Map<String, Value>) -> Self {
        Self {
            rest: members.iter_mut(),
            value: None,
        }
    }
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take() {
            Some(value) => seed.deserialize(Folding(value)),
            None => Err(Error::custom("a value without its key")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard_stubs::models::{HostConfig, NetworkCreateRequest};
    use serde_json::json;

    #[test]
    fn members_are_found_whatever_their_case() {
        let mut host = json!({ "memory": 7, "restartpolicy": { "NAME": "always" }, "other": 1,
            "logConfig": { "type": "local", "config": { "Max-Size": "1m" } } });
        fold_case::<HostConfig>(&mut host);
        assert_eq!(
            host,
            json!({ "Memory": 7, "RestartPolicy": { "Name": "always" }, "other": 1,
                "LogConfig": { "Type": "local", "Config": { "Max-Size": "1m" } } })
        );
    }

    #[test]
    fn keys_of_maps_are_the_clients_and_the_right_name_counts() {
        let mut network = json!({ "name": "a", "Name": "b", "labels": { "name": "x" },
            "ipam": { "config": [{ "subnet": "10.0.0.0/8" }] } });
        fold_case::<NetworkCreateRequest>(&mut network);
        assert_eq!(network["Name"], "b");
        assert_eq!(network["Labels"], json!({ "name": "x" }));
        assert_eq!(network["IPAM"]["Config"][0]["Subnet"], "10.0.0.0/8");
    }

    #[test]
    fn what_can_not_be_decoded_is_left_for_who_tells_why() {
        let mut host = json!({ "memory": "much", "Binds": 3 });
        fold_case::<HostConfig>(&mut host);
        assert_eq!(host["Memory"], "much");
        let mut list = json!([1]);
        fold_case::<HostConfig>(&mut list);
        assert_eq!(list, json!([1]));
    }
}
