mod clients;
mod fixture;
mod guardrails;
mod latency;
mod properties;
mod ratios;
mod recent_evidence;
