//! The packed form of a task record, `omni:task:<id>`: one line of numbers, then optional lines.
//!
//! `prelude.lua` describes the form and reads and writes it too: after the queue's name and the
//! entry id, which scripts add, come `<created> <retries> <enqueuing process>` and, where any of
//! them is known, four lines: owner, route, epoch (with `.<client group>`) and credentials.

use crate::task::Task;

/// The fields of a packed record that a lease needs.
#[derive(Default)]
pub(crate) struct PackedRecord {
    /// When the task was created, ms since 1970.
    pub(crate) created: Option<u64>,
    /// Attempts after the first that may fail.
    pub(crate) retries: Option<u32>,
    /// The digest of the API key that may see the task.
    pub(crate) owner: Option<String>,
    /// The route that the task came over.
    pub(crate) route: Option<String>,
    /// The epoch of the route's rollout that the task is counted under.
    pub(crate) epoch: Option<u64>,
    /// The group of the client, for counting by group.
    pub(crate) client_group: Option<u8>,
    /// The credentials of the captured request, as JSON.
    pub(crate) credentials_json: Option<String>,
}

impl PackedRecord {
    /// Reads a packed record; a field that cannot be read is absent.
    pub(crate) fn parse(packed: &str) -> Self {
        let mut lines = packed.splitn(5, '\n');
        let mut head = lines.next().unwrap_or_default().split(' ').skip(2);
        let mut number = || head.next().and_then(|number| number.parse::<u64>().ok());
        let (created, retries) =
            (number(), number().and_then(|retries| u32::try_from(retries).ok()));
        let mut line = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
        let (owner, route, epoch, credentials_json) = (line(), line(), line(), line());
        let mut epoch = epoch.as_deref().unwrap_or_default().split('.');
        let (epoch, group) = (epoch.next(), epoch.next());
        let (epoch, client_group) =
            (epoch.and_then(|text| text.parse().ok()), group.and_then(|text| text.parse().ok()));
        Self { created, retries, owner, route, epoch, client_group, credentials_json }
    }
}

/// What follows the entry id in the packed record of a new task; the end of the task is published
/// on the channel of `notify_process`.
pub(crate) fn pack_record_fields(
    task: &Task,
    notify_process: &str,
    credentials: Option<&str>,
) -> String {
    let numbers = format!("{} {} {notify_process}", task.created.0, task.retries);
    let owner = task.owner.as_ref().map_or("", |owner| owner.digest());
    let route = task.route.as_deref().unwrap_or_default();
    let credentials = credentials.unwrap_or_default();
    if [owner, route, credentials].iter().all(|field| field.is_empty()) {
        return numbers;
    }
    let epoch = format_epoch_and_group(task).unwrap_or_default();
    format!("{numbers}\n{owner}\n{route}\n{epoch}\n{credentials}")
}

/// The route and the epoch that a task is counted under, where it is counted.
pub(crate) fn tally_route_and_epoch(task: &Task) -> Option<(&str, u64)> {
    task.route.as_deref().zip(task.epoch)
}

/// The epoch of a task that is counted, with `.<client group>` where the client has one.
pub(crate) fn format_epoch_and_group(task: &Task) -> Option<String> {
    let (_, epoch) = tally_route_and_epoch(task)?;
    Some(task.client_group.map_or_else(|| epoch.to_string(), |group| format!("{epoch}.{group}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{TaskId, TaskOwner, Topic, UnixMs};

    #[test]
    fn packed_fields_are_read_back() {
        let topic = Topic::parse("t").expect("a topic");
        let plain = Task::new(TaskId::new(UnixMs(1), 1), topic, "{}", UnixMs(5));
        let task = Task {
            owner: Some(TaskOwner::from_digest("digest")),
            route: Some("/invoke".into()),
            epoch: Some(7),
            client_group: Some(31),
            retries: 3,
            ..plain.clone()
        };
        let packed = format!("t:a 1-0 {}", pack_record_fields(&task, "p", Some("{\"k\":\"\\n\"}")));
        let record = PackedRecord::parse(&packed);
        assert_eq!((record.created, record.retries), (Some(5), Some(3)));
        assert_eq!(record.owner.as_deref(), Some("digest"));
        assert_eq!(record.route.as_deref(), Some("/invoke"));
        assert_eq!((record.epoch, record.client_group), (Some(7), Some(31)));
        assert_eq!(record.credentials_json.as_deref(), Some("{\"k\":\"\\n\"}"));

        let packed = format!("t:a 1-0 {}", pack_record_fields(&plain, "p", None));
        assert!(!packed.contains('\n'), "a task without optional fields takes one line");
        assert_eq!(PackedRecord::parse(&packed).owner, None);
    }
}
