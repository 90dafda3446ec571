//! Lists of the API that are fetched page by page.

use super::exit::CliError;

/// The most entries that a command requests at once.
const PAGE_SIZE: usize = 500;

/// Fetches pages until `limit` entries are there or no further page follows. `fetch_page` gets the
/// cursor of the page (none for the first one) and its size, and returns the entries and the cursor
/// of the next page, none at the end.
pub(super) async fn fetch_pages<T>(
    limit: usize,
    fetch_page: impl AsyncFn(Option<String>, usize) -> Result<(Vec<T>, Option<String>), CliError>,
) -> Result<Vec<T>, CliError> {
    let mut entries = Vec::new();
    let mut cursor = None;
    while entries.len() < limit {
        let page_size = PAGE_SIZE.min(limit - entries.len());
        let (page, next_cursor) = fetch_page(cursor, page_size).await?;
        entries.extend(page);
        if next_cursor.is_none() {
            break;
        }
        cursor = next_cursor;
    }
    Ok(entries)
}
