//! The lead of the replicas, and its terms.
//!
//! The lead belongs to this process and stays in memory. Only a new term is stored, so that no
//! later boot assigns it again.

use crate::store::rollout::ReplicaReport;
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::{u64_from_sql, u64_to_sql};
use crate::store::timing::replica_ttl;

/// Gives or renews the lead where the replica is a candidate and no other one leads. The term, if
/// the replica leads now.
pub(crate) fn acquire_lead(
    db: &mut WriterDatabase,
    report: &ReplicaReport,
) -> rusqlite::Result<Option<u64>> {
    let ReplicaReport { process, wants_lead, .. } = report;
    let until = db.clock.steady_time() + replica_ttl();
    let leads = current_leader(db).map(|leader| leader == process);
    match (leads, wants_lead) {
        (Some(false), _) | (None, false) => return Ok(None),
        (Some(true), false) => {
            db.current_leader = None;
            return Ok(None);
        }
        (Some(true), true) => {}
        (None, true) => {
            let next = u64_to_sql(load_term(db)? + 1);
            db.connection
                .prepare_cached("INSERT INTO terms (term) VALUES (?1)")?
                .execute([next])?;
            db.connection.prepare_cached("DELETE FROM terms WHERE term < ?1")?.execute([next])?;
        }
    }
    db.current_leader = Some((process.clone(), until));
    load_term(db).map(Some)
}

/// Ends the lead of a replica, if it leads.
pub(crate) fn release_lead(db: &mut WriterDatabase, process: &str) {
    db.current_leader.take_if(|(leader, _)| leader == process);
}

/// The replica that leads now.
pub(crate) fn current_leader(db: &WriterDatabase) -> Option<&str> {
    let now = db.clock.steady_time();
    db.current_leader.as_ref().filter(|(_, until)| *until > now).map(|(leader, _)| leader.as_str())
}

/// The last term of the lead; 0 if there was none.
pub(crate) fn load_term(db: &WriterDatabase) -> rusqlite::Result<u64> {
    let sql = "SELECT coalesce(max(term), 0) FROM terms";
    db.connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).map(u64_from_sql)
}
