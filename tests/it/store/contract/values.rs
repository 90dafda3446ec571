//! Values pass through unchanged: a payload to its handler, a result to its reader.

use bytes::Bytes;
use omnidaemon::config::ContentForm;
use omnidaemon::store::{Settlement, TaskStore, TopicQueue};
use omnidaemon::task::{Task, TaskAnswer};

use super::{RESULT_TTL, StoreFixture, get_record, lease_one, new_task, test_queue};

/// JSON texts that a store could take for another value, or could spell in another way.
pub(crate) const AMBIGUOUS_VALUES: [&str; 34] = [
    "\"123\"",
    "\"true\"",
    "\"null\"",
    "\"{\\\"a\\\": 1}\"",
    "\"[1, 2]\"",
    "\"\\\"quoted\\\"\"",
    "\"\\\"\\\\\\\"123\\\\\\\"\\\"\"",
    "\" 123 \"",
    "\"NaN\"",
    "\"plain\"",
    "\"\"",
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-0.0",
    "1",
    "1.0",
    "1e2",
    "1E+2",
    "9007199254740993",
    "18446744073709551616",
    "12345678901234567890",
    "-12345678901234567890123456789",
    "0.1234567890123456789012345678901234567890",
    "1e400",
    "[]",
    "{}",
    "{\"a\":1,\"a\":2,\"b\":{\"c\":1,\"c\":2}}",
    "\"\\u00e9 \\u0000 \\ud83d\\ude00 \u{e9} \u{1f600} \\/\"",
    "\"\\ud800\"",
    "{\"\\ud800\": \"\\udfff\"}",
    "{ \"spaced\" :\n[ 1 ,\t2 ] }",
];

/// [`AMBIGUOUS_VALUES`], and one that is nested as deeply as a submitted payload may be.
pub(crate) fn ambiguous_values() -> Vec<String> {
    let nested = format!("{}{}", "[".repeat(127), "]".repeat(127));
    AMBIGUOUS_VALUES.into_iter().map(str::to_owned).chain([nested]).collect()
}

fn both_content_forms() -> [TopicQueue; 2] {
    [
        TopicQueue { content_form: ContentForm::String, ..test_queue("strings") },
        TopicQueue { content_form: ContentForm::Object, ..test_queue("objects") },
    ]
}

async fn enqueue_value(store: &dyn TaskStore, queue: &TopicQueue, value: &str) -> Task {
    let task = Task { payload: Bytes::copy_from_slice(value.as_bytes()), ..new_task(queue) };
    store.enqueue(&task, queue).await.expect("enqueued");
    task
}

pub(crate) async fn a_payload_reaches_its_handler_byte_for_byte(f: impl StoreFixture) {
    let store = f.store();
    for queue in both_content_forms() {
        for value in ambiguous_values() {
            let task = enqueue_value(&*store, &queue, &value).await;
            let lease = lease_one(&*store, &queue).await;
            assert_eq!(lease.task.payload, value, "{:?}", queue.content_form);
            assert_eq!(lease.task, task);
        }
    }
}

pub(crate) async fn a_result_is_read_back_byte_for_byte(f: impl StoreFixture) {
    let store = f.store();
    for queue in both_content_forms() {
        for value in ambiguous_values() {
            let task = enqueue_value(&*store, &queue, &value).await;
            let lease = lease_one(&*store, &queue).await;
            let answer = TaskAnswer::from_json(value.clone());
            let settlement = Settlement::Complete { answer: answer.clone(), ttl: RESULT_TTL };
            store.settle(&lease, &settlement).await.expect("settled");
            assert_eq!(get_record(&*store, &task.id).await.answer, Some(answer), "{value}");
        }
    }
}
