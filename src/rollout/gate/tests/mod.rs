mod clients;
mod fixture;
mod guardrails;
mod properties;
mod ratios;
mod recent_evidence;
