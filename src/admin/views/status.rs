//! `GET /readyz`, and `status`, `topics` and `workers` of the API.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::RolloutSummaryDocument;
use crate::config::Config;
use crate::operations::{FleetStatus, QueueStatus};
use crate::store::{ServerAdvice, WorkerHeartbeat};

/// The result of a check that found no problem.
const CHECK_PASSED: &str = "ok";

/// `GET /readyz`: whether the process is ready, and the checks behind that.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthDocument {
    /// `ready`, `degraded`, `starting` or `draining`.
    pub status: String,
    /// The checks.
    pub checks: CheckDocuments,
}

/// `GET status`: the state of the whole installation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusDocument {
    /// `healthy`, `degraded`, `starting` or `draining`.
    pub status: String,
    /// The checks.
    pub checks: CheckDocuments,
    /// The version of the program that answers.
    pub version: String,
    /// The store's URL, without its secrets.
    pub store: String,
    /// Settings of the store's server that should be changed.
    pub store_advice: Vec<AdviceDocument>,
    /// Age of the server process; from the store alone, of the oldest worker process; none without
    /// either.
    pub uptime_seconds: Option<u64>,
    /// Live worker slots over all processes.
    pub active_workers: u32,
    /// Worker slots that run a task.
    pub busy_workers: u32,
    /// Waiting tasks over all topics.
    pub queue_depth: u64,
    /// The topics with their queues.
    pub topics: Vec<TopicDocument>,
    /// The rollouts; none from the store alone, since only a server knows them.
    pub rollouts: Vec<RolloutSummaryDocument>,
}

/// Checks by name, in the order in which they are shown. A result is `ok` or a sentence that says
/// what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckDocuments(Map<String, Value>);

/// A setting of the store's server that should be changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdviceDocument {
    /// `host:port` of the server.
    pub server: String,
    /// The setting, as the server names it.
    pub about: String,
    /// What is wrong, and what that can cost.
    pub problem: String,
    /// The commands to run on the server, in this order.
    pub run: Vec<String>,
}

/// A topic with the depth of its queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicDocument {
    /// The topic's name.
    pub topic: String,
    /// Waiting tasks, retries included.
    pub queued: u64,
    /// Tasks under a lease.
    pub processing: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Age of the oldest waiting task, seconds; 0 when none waits.
    pub oldest_seconds: f64,
}

/// A worker process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerDocument {
    /// The process's name, `<host>.<pid>.<boot>`.
    pub process: String,
    /// Live workers.
    pub active: u32,
    /// Workers that the running tasks keep busy.
    pub busy: u32,
    /// When the process started, milliseconds since the Unix epoch.
    pub started_ms: u64,
}

impl StatusDocument {
    /// The document of what the store knows, with its results of the checks still to be added:
    /// `status`, `checks`, `uptime_seconds` and `rollouts` are the caller's.
    #[must_use]
    pub fn from_fleet(fleet: &FleetStatus, config: &Config) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: config.store.url.to_string(),
            store_advice: fleet.advice.iter().map(AdviceDocument::from).collect(),
            active_workers: fleet.active_workers(),
            busy_workers: fleet.busy_workers(),
            queue_depth: fleet.queued_tasks(),
            topics: fleet.queues.iter().map(TopicDocument::from).collect(),
            ..Self::default()
        }
    }

    /// Adds the check of the workers, where they are known. A `healthy` status becomes `degraded`
    /// when a topic needs workers and none is live.
    pub fn add_workers_check(&mut self, lacks_workers: Option<bool>) {
        let Some(lacks_workers) = lacks_workers else { return };
        self.checks.add("workers", lacks_workers.then(|| "none is running".to_owned()));
        if lacks_workers && self.status == "healthy" {
            "degraded".clone_into(&mut self.status);
        }
    }
}

impl CheckDocuments {
    /// Adds a check: `ok` without a problem.
    pub fn add(&mut self, name: &str, problem: Option<String>) {
        let result = problem.unwrap_or_else(|| CHECK_PASSED.to_owned());
        self.0.insert(name.to_owned(), result.into());
    }

    /// Name, result and whether it passed, of each check.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        self.0.iter().map(|(name, result)| {
            let result = result.as_str().unwrap_or_default();
            (name.as_str(), result, result == CHECK_PASSED)
        })
    }
}

impl From<&ServerAdvice> for AdviceDocument {
    fn from(advice: &ServerAdvice) -> Self {
        Self {
            server: advice.server.clone(),
            about: advice.setting.to_owned(),
            problem: advice.problem.clone(),
            run: advice.commands.clone(),
        }
    }
}

impl From<&QueueStatus> for TopicDocument {
    fn from(queue: &QueueStatus) -> Self {
        Self {
            topic: queue.topic.to_string(),
            queued: queue.depth.queued,
            processing: queue.depth.processing,
            dead_letters: queue.depth.dead_letters,
            oldest_seconds: queue.depth.oldest_age.as_secs_f64(),
        }
    }
}

impl From<&WorkerHeartbeat> for WorkerDocument {
    fn from(heartbeat: &WorkerHeartbeat) -> Self {
        Self {
            process: heartbeat.process.clone(),
            active: heartbeat.active_workers,
            busy: heartbeat.busy_workers,
            started_ms: heartbeat.started_at.0,
        }
    }
}
