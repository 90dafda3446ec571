//! Parses the section `topics`: the limits of each topic and the handler of its tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::diagnostics::quote_for_message;
use crate::config::parse::addresses::parse_http_url;
use crate::config::parse::command_check::find_missing_programs;
use crate::config::parse::field_error::FieldError;
use crate::config::parse::scalars::{
    count_between, duration_between, one_of_words, parse_name, parse_topic_name as topic_name,
};
use crate::config::parse::section::ConfigSection;
use crate::config::yaml::YamlValue;
use crate::config::{ContentForm, GroupStartPosition, HandlerConfig, TopicConfig};
use crate::task::Topic;

const HANDLER_HINT: &str =
    "write `upstream`, `external`, `{http: URL}` or `{command: [program, argument]}`";
const DAY_SECS: u64 = 24 * 3600;

/// Parses all topics; one with an invalid name or handler is reported and left out.
pub(crate) fn parse_topics(file: &mut ConfigSection<'_>) -> BTreeMap<Topic, TopicConfig> {
    let mut topics = BTreeMap::new();
    for (key, section) in file.keyed_sections("topics") {
        let name = topic_name(key).map_err(|wrong| section.add_section_problem(wrong)).ok();
        let topic = parse_topic(section);
        topics.extend(name.zip(topic));
    }
    topics
}

fn parse_topic(mut topic: ConfigSection<'_>) -> Option<TopicConfig> {
    let handler = parse_handler(&mut topic);
    let default_concurrency = handler.as_ref().map_or(1, HandlerConfig::default_concurrency);
    let config = TopicConfig {
        handler: HandlerConfig::External,
        timeout: topic.read_or_default(
            "timeout",
            Duration::from_hours(1),
            duration_between(1, 30 * DAY_SECS),
        ),
        retries: topic.read_or_default("retries", 3, count_between(0, 100)),
        retry_delay: topic.read_or_default(
            "retry_delay",
            Duration::from_secs(5),
            duration_between(0, DAY_SECS),
        ),
        concurrency: topic.read_or_default(
            "concurrency",
            default_concurrency,
            count_between(1, 1024),
        ),
        external_slots: topic.read_or_default("external_slots", 1, count_between(1, 1024)),
        agent: topic.read_or_default("agent", "omnidaemon".into(), parse_name),
        content_form: topic.read_or_default(
            "content",
            ContentForm::String,
            one_of_words(&[("string", ContentForm::String), ("object", ContentForm::Object)]),
        ),
        max_backlog: topic.read_or_default(
            "max_backlog",
            100_000,
            count_between(1, 1_000_000_000_000),
        ),
        reclaim_idle: topic.read_or_default(
            "reclaim_idle",
            Duration::from_mins(3),
            duration_between(10, DAY_SECS),
        ),
        group_start: topic.read_or_default(
            "start",
            GroupStartPosition::FirstEntry,
            one_of_words(&[
                ("beginning", GroupStartPosition::FirstEntry),
                ("new", GroupStartPosition::NewEntries),
            ]),
        ),
    };
    handler.map(|handler| TopicConfig { handler, ..config })
}

fn parse_handler(topic: &mut ConfigSection<'_>) -> Option<HandlerConfig> {
    let is_section =
        topic.find_node("handler").is_some_and(|node| matches!(node.value, YamlValue::Map(_)));
    if is_section {
        parse_handler_section(topic.subsection("handler"))
    } else {
        topic.read_required("handler", HANDLER_HINT, parse_handler_word)
    }
}

fn parse_handler_word(text: &str) -> Result<HandlerConfig, FieldError> {
    match text {
        "upstream" => Ok(HandlerConfig::Upstream),
        "external" => Ok(HandlerConfig::External),
        text => Err(FieldError::new(
            format!("{} is not a handler", quote_for_message(text)),
            HANDLER_HINT,
        )),
    }
}

fn parse_handler_section(mut handler: ConfigSection<'_>) -> Option<HandlerConfig> {
    let (http, command) =
        (handler.find_node("http").is_some(), handler.find_node("command").is_some());
    let url = handler.read_optional("http", parse_http_url);
    let words = handler.read_list("command", Vec::new(), |word| Ok(word.to_owned()));
    match (http, command) {
        (true, true) => handler.add_section_problem(FieldError::new(
            "has both `http` and `command`",
            "keep one of them",
        )),
        (false, false) => {
            handler.add_section_problem(FieldError::new("names no handler", HANDLER_HINT));
        }
        (true, false) => return url.map(HandlerConfig::Http),
        (false, true) if words.first().is_some_and(|program| !program.is_empty()) => {
            for wrong in find_missing_programs(&words) {
                handler.add_warning("command", wrong.message, wrong.hint);
            }
            return Some(HandlerConfig::Command(words));
        }
        (false, true) if handler.is_empty_list("command") || !words.is_empty() => {
            handler.add_problem(
                "command",
                "names no program",
                "write it with its arguments, such as `[python3, agent.py]`",
            );
        }
        (false, true) => {}
    }
    None
}
