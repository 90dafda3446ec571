//! Reads a script's reply that is a row of fields, in their order.

use redis::{FromRedisValue, ParsingError, Value, from_redis_value};

/// The fields of a row that are not read yet.
pub(crate) struct ReplyFields(std::vec::IntoIter<Value>);

impl ReplyFields {
    /// The fields of a row.
    pub(crate) fn parse(row: Value) -> Result<Self, ParsingError> {
        Ok(Self(Vec::<Value>::from_redis_value(row)?.into_iter()))
    }

    /// Reads the next field; a field after the last one is nil.
    pub(crate) fn read_next<T: FromRedisValue>(&mut self) -> Result<T, ParsingError> {
        from_redis_value(self.0.next().unwrap_or(Value::Nil))
    }
}
