//! The JSON documents of `/admin/v1` as types: the server serializes them, the command line reads
//! them back. `openapi.json` beside the router describes the paths.
//!
//! Rules: names, nulls and the order of the fields are a contract. A field without a value is
//! `null` rather than left out, except where its comment says otherwise. Every document can be read
//! from an older server, whose missing fields take their default, and from a newer one, whose
//! further fields are ignored. Words with a fixed set of values stay text here, so that a value
//! that a newer server adds can be shown. Nothing here does I/O.

mod clients;
mod config;
mod dead_letter;
mod history;
mod plan;
mod problem;
mod rollout;
mod rollout_command;
mod status;
mod task;

pub use self::clients::{ClientDocument, ClientsDocument};
pub use self::config::{
    AdminSectionDocument, ConfigDocument, DeprecationSectionDocument, ProxySectionDocument,
    ResultsSectionDocument, RouteConfigDocument, StoreSectionDocument, TopicConfigDocument,
    UpstreamSectionDocument, WorkersSectionDocument,
};
pub use self::dead_letter::{DeadLetterChangeDocument, DeadLetterDocument};
pub use self::history::{HistoryEventDocument, HistoryPageDocument};
pub use self::plan::{GatePlanDocument, MinSamplesDocument, PlanDocument, StepDocument};
pub use self::problem::ProblemDocument;
pub use self::rollout::{
    CohortDocument, EvidenceDocument, ExplanationDocument, GateDocument, PathCountsDocument,
    ReplicaDocument, RolloutDetailsDocument, RolloutDocument, RolloutSummaryDocument,
    ShareDocument, SoakDocument,
};
pub use self::rollout_command::{CommandResultDocument, RolloutCommandBody};
pub use self::status::{
    AdviceDocument, CheckDocuments, HealthDocument, StatusDocument, TopicDocument, WorkerDocument,
};
pub use self::task::{
    AcceptedDocument, AttemptDocument, BulkDocument, BulkItemDocument, CancelledDocument,
    DeliveryDocument, ProgressDocument, RefusedTaskDocument, TaskDetailsDocument, TaskDocument,
    TaskPageDocument, TaskSummaryDocument,
};
