//! Appending a failed attempt to a task's history in SQL, in the form of `wire/run_history.rs`.

/// The part of an `UPDATE tasks SET` that appends the ending attempt to the history. Its parameters
/// are `:now`, `:kind` and `:error`. A history over the limit is not extended.
macro_rules! append_run_history_sql {
    () => {
        "history = CASE WHEN length(history) > 16000 THEN history
             ELSE coalesce(history || char(10), '') ||
                 json_object('n', attempts, 'worker', worker, 'began', began, 'ended', :now,
                             'kind', :kind, 'error', :error)
             END"
    };
}
pub(crate) use append_run_history_sql;

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, named_params};

    use crate::store::wire::run_history::{MAX_HISTORY_BYTES, encode_run, parse_runs};
    use crate::task::{AttemptSummary, FailureKind, UnixMs};

    fn append_run(history: Option<String>) -> String {
        let connection = Connection::open_in_memory().expect("opens");
        connection
            .execute_batch("CREATE TABLE tasks (attempts, worker, began, history)")
            .expect("created");
        connection
            .execute("INSERT INTO tasks VALUES (2, 'h.1.b', 5, ?1)", [history])
            .expect("inserted");
        let sql = concat!("UPDATE tasks SET ", append_run_history_sql!());
        let crash = FailureKind::WorkerCrash.as_str();
        connection
            .execute(sql, named_params! {":now": 7, ":kind": crash, ":error": "a \"b\"\nc"})
            .expect("updated");
        connection.query_row("SELECT history FROM tasks", [], |row| row.get(0)).expect("read")
    }

    #[test]
    fn a_run_is_written_in_sql_as_in_rust() {
        let run = AttemptSummary {
            number: 2,
            worker: Some("h.1.b".into()),
            started: Some(UnixMs(5)),
            ended: Some(UnixMs(7)),
            failure: Some((FailureKind::WorkerCrash, "a \"b\"\nc".into())),
        };
        assert_eq!(append_run(None), encode_run(&run));
        let two = append_run(Some(encode_run(&run)));
        assert_eq!(parse_runs(Some(&two)), [run.clone(), run]);
    }

    #[test]
    fn a_history_over_the_limit_is_not_extended() {
        let full = "x".repeat(MAX_HISTORY_BYTES + 1);
        assert_eq!(append_run(Some(full.clone())), full);
        assert_ne!(append_run(Some(full[1..].to_owned())), full[1..]);
    }
}
