//! A configuration as a tree, so that a setting always lands where it belongs.
//!
//! The text is JSON, which is YAML too. A path names a value by its keys, such as
//! `routes.invoke.wait`.

use serde_json::{Map, Value};

/// A whole configuration file.
#[derive(Clone, Debug)]
pub struct ConfigTree(Value);

impl ConfigTree {
    /// A file without a single key.
    pub fn empty() -> Self {
        Self(Value::Object(Map::new()))
    }

    /// Reads a file that [`Self::to_text`] wrote.
    ///
    /// # Panics
    /// When the file is not JSON.
    pub fn parse(text: &str) -> Self {
        let tree = serde_json::from_str(text);
        Self(tree.unwrap_or_else(|error| panic!("the config is not a generated one: {error}")))
    }

    /// What a configuration file holds.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(&self.0).expect("a tree of JSON values can be written")
    }

    /// Sets the value at `path`; what is missing on the way there is added.
    ///
    /// # Panics
    /// When the value is there already, or a value on the way there has no keys.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        let keys: Vec<&str> = path.split('.').collect();
        self.set_at(&keys, value.into());
    }

    /// The same by single keys, of which each may contain a dot.
    pub fn set_at(&mut self, keys: &[&str], value: Value) {
        let place = self.place(keys);
        assert_ne!(*place, value, "{keys:?} has this value already");
        *place = value;
    }

    /// Takes the value at `path` out.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove(&mut self, path: &str) {
        let (parent, key) = path.rsplit_once('.').map_or((None, path), |(p, k)| (Some(p), k));
        let keys: Vec<&str> = parent.into_iter().flat_map(|parent| parent.split('.')).collect();
        let removed = self.place(&keys).as_object_mut().and_then(|map| map.shift_remove(key));
        assert!(removed.is_some(), "{path} is not in the config");
    }

    /// The tree itself.
    pub fn into_value(self) -> Value {
        self.0
    }

    /// The text at `path`, if a text is there.
    pub fn text_at(&self, path: &str) -> Option<&str> {
        self.0.pointer(&format!("/{}", path.replace('.', "/")))?.as_str()
    }

    /// Whether a value is at `path`.
    pub fn contains(&self, path: &str) -> bool {
        self.0.pointer(&format!("/{}", path.replace('.', "/"))).is_some()
    }

    fn place(&mut self, keys: &[&str]) -> &mut Value {
        let mut place = &mut self.0;
        for key in keys {
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
            let map = place.as_object_mut();
            let map = map.unwrap_or_else(|| panic!("{key} of {keys:?} is below a plain value"));
            place = map.entry(*key).or_insert(Value::Null);
        }
        place
    }
}

#[test]
fn values_are_set_changed_and_removed_by_their_path() {
    let mut config = ConfigTree::empty();
    config.set("routes.invoke.wait", "3s");
    config.set("routes.invoke.wait", "4s");
    config.set_at(&["topics", "smoke.invoke"], serde_json::json!({"handler": "upstream"}));
    config.set("workers.count", 0);
    config.remove("workers.count");
    let text: String = config.to_text().split_whitespace().collect();
    let expected = r#"{"routes":{"invoke":{"wait":"4s"}},"#.to_owned()
        + r#""topics":{"smoke.invoke":{"handler":"upstream"}},"workers":{}}"#;
    assert_eq!(text, expected);
    assert!(config.contains("routes.invoke.wait") && !config.contains("workers.count"));
}

#[test]
#[should_panic(expected = "has this value already")]
fn a_setting_that_changes_nothing_is_refused() {
    let mut config = ConfigTree::empty();
    config.set("workers.count", 4);
    config.set("workers.count", 4);
}
