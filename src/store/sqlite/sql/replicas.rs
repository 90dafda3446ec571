//! Replica reports.
//!
//! A replica's counts are stored only where they differ from the stored ones, so that an idle
//! replica costs no commit.

use rusqlite::params;

use super::evidence::extend_epoch_retention;
use super::lead::{acquire_lead, current_leader};
use super::rollout::load_rollout;
use crate::store::rollout::{ReplicaReport, ReplicaSync};
use crate::store::sqlite::database::WriterDatabase;
use crate::store::sqlite::row::u64_to_sql;

/// Stores a replica's counts, gives or renews the lead, and reads the states of `routes`. The list
/// of live replicas is left empty: it is not in the database.
pub(crate) fn sync_replica(
    db: &mut WriterDatabase,
    report: &ReplicaReport,
    routes: &[String],
) -> rusqlite::Result<ReplicaSync> {
    for (route, epoch, counts_json) in &report.epoch_counts {
        let sql = "INSERT INTO counts (route, epoch, process, counted) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (route, epoch, process) DO UPDATE SET counted = excluded.counted
                   WHERE counted <> excluded.counted";
        let values = params![route, u64_to_sql(*epoch), report.process, counts_json];
        if db.connection.prepare_cached(sql)?.execute(values)? > 0 {
            extend_epoch_retention(db, route, u64_to_sql(*epoch))?;
        }
    }
    let term = acquire_lead(db, report)?;
    let rollout_records =
        routes.iter().map(|route| load_rollout(&db.connection, route)).collect::<Result<_, _>>()?;
    Ok(ReplicaSync {
        term,
        leader: current_leader(db).map(str::to_owned),
        replicas: Vec::new(),
        rollout_records,
        clock_ahead_ms: 0,
    })
}
