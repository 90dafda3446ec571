//! `GET config`: the configuration in force, without its secrets.

use axum::Json;
use axum::extract::State;

use crate::admin::services::AdminServices;
use crate::admin::views::ConfigDocument;

pub(crate) async fn get_config(State(services): State<AdminServices>) -> Json<ConfigDocument> {
    let snapshot = services.snapshots.load();
    let file = services.config_file.as_deref();
    Json(ConfigDocument::new(&snapshot.config, file, snapshot.generation))
}
