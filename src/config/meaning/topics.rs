//! `topics:` and the handlers of their tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::addresses::http_url;
use super::programs::missing;
use super::section::Section;
use super::values::{Wrong, count, duration, name, topic as topic_name, word};
use crate::config::problem::shown;
use crate::config::yaml::Value;
use crate::config::{ContentForm, GroupStart, HandlerConfig, TopicConfig};
use crate::task::Topic;

const HANDLERS: &str = "write `upstream`, `external`, `{http: URL}` or `{command: [program, argument]}`";
const DAY: u64 = 24 * 3600;

pub(super) fn topics(file: &mut Section<'_>) -> BTreeMap<Topic, TopicConfig> {
    let mut topics = BTreeMap::new();
    for (key, section) in file.named("topics") {
        let name = topic_name(key).map_err(|wrong| section.fault(wrong)).ok();
        let topic = topic(section);
        topics.extend(name.zip(topic));
    }
    topics
}

fn topic(mut topic: Section<'_>) -> Option<TopicConfig> {
    let handler = handler(&mut topic);
    let config = TopicConfig {
        handler: HandlerConfig::External,
        timeout: topic.read("timeout", Duration::from_hours(1), duration(1, 30 * DAY)),
        retries: topic.read("retries", 3, count(0, 100)),
        retry_delay: topic.read("retry_delay", Duration::from_secs(5), duration(0, DAY)),
        agent: topic.read("agent", "omnidaemon".into(), name),
        content: topic.read(
            "content",
            ContentForm::String,
            word(&[("string", ContentForm::String), ("object", ContentForm::Object)]),
        ),
        max_backlog: topic.read("max_backlog", 100_000, count(1, 1_000_000_000_000)),
        reclaim_idle: topic.read("reclaim_idle", Duration::from_mins(3), duration(10, DAY)),
        start: topic.read(
            "start",
            GroupStart::Beginning,
            word(&[("beginning", GroupStart::Beginning), ("new", GroupStart::New)]),
        ),
    };
    handler.map(|handler| TopicConfig { handler, ..config })
}

fn handler(topic: &mut Section<'_>) -> Option<HandlerConfig> {
    let is_section = topic.node("handler").is_some_and(|node| matches!(node.value, Value::Map(_)));
    if is_section { program_or_url(topic.section("handler")) } else { topic.require("handler", HANDLERS, bare_handler) }
}

fn bare_handler(text: &str) -> Result<HandlerConfig, Wrong> {
    match text {
        "upstream" => Ok(HandlerConfig::Upstream),
        "external" => Ok(HandlerConfig::External),
        text => Err(Wrong::new(format!("{} is not a handler", shown(text)), HANDLERS)),
    }
}

fn program_or_url(mut handler: Section<'_>) -> Option<HandlerConfig> {
    let (http, command) = (handler.node("http").is_some(), handler.node("command").is_some());
    let url = handler.optional("http", http_url);
    let words = handler.list("command", Vec::new(), |word| Ok(word.to_owned()));
    match (http, command) {
        (true, true) => handler.fault(Wrong::new("has both `http` and `command`", "keep one of them")),
        (false, false) => handler.fault(Wrong::new("names no handler", HANDLERS)),
        (true, false) => return url.map(HandlerConfig::Http),
        (false, true) if words.first().is_some_and(|program| !program.is_empty()) => {
            for wrong in missing(&words) {
                handler.warning("command", wrong.message, wrong.hint);
            }
            return Some(HandlerConfig::Command(words));
        }
        (false, true) if handler.is_empty("command") || !words.is_empty() => {
            handler.problem(
                "command",
                "names no program",
                "write it with its arguments, such as `[python3, agent.py]`",
            );
        }
        (false, true) => {}
    }
    None
}
