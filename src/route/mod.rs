//! Pure routing decisions: which route a request addresses, whether it may take the async path, and
//! what its body means.
//!
//! The module knows no sockets, clocks or stores: the data plane calls it and acts on the result. A
//! path is matched in the same canonical form in which it is forwarded, so that this program and
//! the upstream cannot read it differently.

mod admission;
mod canonical_path;
mod client_identity;
mod cohort_split;
mod eligibility;
mod envelope;
mod framing;
mod preferences;
mod progress_object;
mod response_diff;
mod response_hop;
mod retryable_status;
mod table;
mod task_request;
mod wait_param;
mod webhook_url;

pub use self::admission::{
    Admission, AdmissionTiming, MIN_RECENT_RUNS, TopicCapacity, decide_admission,
};
pub use self::canonical_path::{PathError, canonicalize_path};
pub use self::client_identity::find_client_group;
pub use self::cohort_split::{
    AssignmentBasis, CohortAssignment, assign_cohort, find_sticky_key, is_pinned_sync,
};
pub use self::eligibility::{check_capturable, is_json_request};
pub use self::envelope::{BodyError, ParsedBody, parse_body, parse_legacy_call};
pub use self::framing::{find_framing_defect, is_only_chunked};
pub use self::preferences::ClientPreferences;
pub use self::progress_object::parse_progress;
pub use self::response_diff::{ResponseDifference, compare_responses};
pub use self::response_hop::{MAX_RESPONSE_HOPS, parse_response_hop};
pub use self::retryable_status::is_retryable_status;
pub use self::table::{RouteTable, RouteTarget};
pub use self::task_request::{TaskRequestError, build_task};
pub use self::wait_param::{WaitParamError, parse_wait_param};
pub use self::webhook_url::{WebhookTarget, WebhookUrlError, parse_webhook_target};
