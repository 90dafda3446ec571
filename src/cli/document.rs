//! Documents of the admin API in the two forms that the command line needs.
//!
//! `--format json` prints the JSON as it was received, also with fields that only a newer server
//! has. Tables and exit statuses are made from the typed view.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::exit::CliError;

/// One document, raw and typed.
#[derive(Clone, Debug)]
pub(super) struct ApiDocument<T> {
    /// The JSON as it was received.
    pub(super) raw: Value,
    /// The fields that this version knows.
    pub(super) view: T,
}

impl<T: DeserializeOwned> ApiDocument<T> {
    /// Parses a document that a server sent.
    pub(super) fn parse(raw: Value) -> Result<Self, CliError> {
        let view = T::deserialize(&raw).map_err(|error| unreadable(&error))?;
        Ok(Self { raw, view })
    }
}

impl<T: Serialize> ApiDocument<T> {
    /// Makes a document from a view that this process built, without a server.
    pub(super) fn from_view(view: T) -> Result<Self, CliError> {
        let raw = serde_json::to_value(&view).map_err(|error| unreadable(&error))?;
        Ok(Self { raw, view })
    }
}

impl<T> ApiDocument<Vec<T>> {
    /// The entries of a list as documents of their own.
    pub(super) fn into_items(self) -> Vec<ApiDocument<T>> {
        let Value::Array(raw) = self.raw else { return Vec::new() };
        let items = raw.into_iter().zip(self.view);
        items.map(|(raw, view)| ApiDocument { raw, view }).collect()
    }
}

/// The entries as a JSON list.
pub(super) fn to_json_list<T>(items: &[ApiDocument<T>]) -> Value {
    items.iter().map(|item| item.raw.clone()).collect()
}

fn unreadable(error: &serde_json::Error) -> CliError {
    CliError::Failed(format!(
        "the server's response cannot be read ({error}): is the server of another version?"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admin::views::TopicDocument;

    #[test]
    fn fields_of_a_newer_server_stay_in_the_raw_json() {
        let json = json!([{"topic": "t", "queued": 3, "new": true}]);
        let topics: ApiDocument<Vec<TopicDocument>> = ApiDocument::parse(json.clone()).expect("it");
        let items = topics.into_items();
        assert_eq!((items[0].view.topic.as_str(), items[0].view.queued), ("t", 3));
        assert_eq!(to_json_list(&items), json);
        assert!(ApiDocument::<Vec<TopicDocument>>::parse(json!({"topic": 1})).is_err());
    }
}
