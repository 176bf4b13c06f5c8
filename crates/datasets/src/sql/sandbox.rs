//! A connection on which a hostile query can do no harm.
//!
//! A prediction is text that a model made: it may try to write, to open other files, to run for ever or to fill the memory. Here
//! * the file is opened read-only and immutable (no lock, no journal), temporary storage is in memory, and `query_only` is on;
//! * an authorizer lets nothing through but `SELECT`, reading, and functions other than `load_extension`: no `ATTACH`, `PRAGMA`, `VACUUM`,
//!   transaction, and nothing that writes, in any part of a statement;
//! * one statement runs, and it is cut off after [`Limits::seconds`], also while it is being prepared;
//! * strings, rows, statements and the memory of SQLite are bounded, and so are the rows read.

use super::Schema;
use super::database::{Content, Database};
use crate::error::{DataError, Result};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much one query may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Wall time.
    pub seconds: f64,
    /// Rows of the result.
    pub rows: usize,
    /// Bytes of the result's values.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { seconds: 10.0, rows: 100_000, bytes: 64 << 20 }
    }
}

/// Bytes that SQLite may hold, of all connections of the process.
const HEAP_BYTES: usize = 256 << 20;
/// Instructions of SQLite's machine between looks at the clock: some tens of microseconds.
const STEPS_BETWEEN_LOOKS: i32 = 1000;
/// Limits on a statement and its parts. A string is short enough for a quadratic search in it (`instr`, `replace`) to end.
const STATEMENT_LIMITS: &[(Limit, i32)] = &[
    (Limit::SQLITE_LIMIT_LENGTH, 200_000),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 50_000),
    (Limit::SQLITE_LIMIT_COLUMN, 500),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
    (Limit::SQLITE_LIMIT_VDBE_OP, 100_000),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 500),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// One value of a result.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT; bytes that are not UTF-8 are left out, as the evaluator does.
    Text(String),
    /// BLOB.
    Blob(Vec<u8>),
}

/// The rows of a result.
pub type Rows = Vec<Vec<Value>>;

/// Why a query gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// It may do nothing but select.
    #[error("refused: only one SELECT is allowed ({0})")]
    Refused(String),
    /// It took too long.
    #[error("cut off after the time limit")]
    TooLong,
    /// Its result or what it needed on the way was too large.
    #[error("cut off: {0}")]
    TooLarge(String),
    /// SQLite does not understand it, or it failed.
    #[error("{0}")]
    Failed(String),
}

/// A connection to one database, for one query after the other.
pub struct Sandbox {
    connection: Connection,
    schema: Schema,
    limits: Limits,
    clock: Clock,
}

/// When the query under way is to end, shared with the handler that SQLite calls.
#[derive(Clone)]
struct Clock {
    start: Instant,
    /// In microseconds from `start`.
    deadline: Arc<AtomicU64>,
}

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now(), deadline: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    fn allow(&self, seconds: f64) {
        let end = self.start.elapsed() + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 2);
        self.deadline.store(u64::try_from(end.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.start.elapsed().as_micros() > u128::from(self.deadline.load(Ordering::Relaxed))
    }
}

impl Sandbox {
    /// Opens `database` and reads its schema.
    ///
    /// # Errors
    /// Where the file does not exist or is not a database, or the script fails.
    pub fn open(database: &Database, limits: Limits) -> Result<Self> {
        let clock = Clock::new();
        let (connection, schema) = match &database.content {
            Content::File(path) if !path.is_file() => {
                return Err(DataError::missing(format!("database {}", database.name), path.clone()));
            }
            Content::File(path) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = Connection::open_with_flags(immutable_uri(&path.to_string_lossy()), flags);
                connection.and_then(|connection| lock(connection, &clock))
            }
            Content::Script(script) => Connection::open_in_memory().and_then(|connection| {
                connection.execute_batch(script)?;
                lock(connection, &clock)
            }),
        }
        .map_err(|error| DataError::Database { name: database.name.clone(), problem: error.to_string() })?;
        Ok(Self { connection, schema, limits, clock })
    }

    /// Tables and columns.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The result of one query.
    ///
    /// # Errors
    /// Where it is refused, cut off or fails; the sandbox can be used again in any case.
    pub fn run(&self, query: &str) -> std::result::Result<Rows, QueryError> {
        if query.contains('\0') {
            // SQLite would read no further.
            return Err(QueryError::Refused("it has a NUL character".to_owned()));
        }
        self.clock.allow(self.limits.seconds);
        let mut statement = self.connection.prepare(query).map_err(describe)?;
        if !statement.readonly() || statement.column_count() == 0 {
            return Err(QueryError::Refused("it selects nothing".to_owned()));
        }
        let columns = statement.column_count();
        let mut found = statement.query([]).map_err(describe)?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = found.next().map_err(describe)? {
            let values =
                (0..columns).map(|column| row.get_ref(column).map(Value::from)).collect::<rusqlite::Result<Vec<_>>>().map_err(describe)?;
            bytes += values.iter().map(Value::bytes).sum::<usize>();
            rows.push(values);
            if rows.len() > self.limits.rows {
                return Err(QueryError::TooLarge(format!("more than {} rows", self.limits.rows)));
            }
            if bytes > self.limits.bytes {
                return Err(QueryError::TooLarge(format!("more than {} bytes", self.limits.bytes)));
            }
            if self.clock.is_over() {
                return Err(QueryError::TooLong);
            }
        }
        Ok(rows)
    }
}

impl Value {
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Text(text) => text.len(),
                Self::Blob(blob) => blob.len(),
                Self::Null | Self::Integer(_) | Self::Real(_) => 0,
            }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Text(bytes) => Self::Text(bytes.utf8_chunks().map(|chunk| chunk.valid()).collect()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

/// `path` as a URI whose file is taken to change for nobody: no lock and no journal is made beside it.
fn immutable_uri(path: &str) -> String {
    let escaped: String = path
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    format!("file:{escaped}?mode=ro&immutable=1")
}

/// Reads the schema, then closes every door.
fn lock(mut connection: Connection, clock: &Clock) -> rusqlite::Result<(Connection, Schema)> {
    let schema = read_schema(&connection)?;
    connection.execute_batch(&format!(
        "PRAGMA temp_store = MEMORY; PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA hard_heap_limit = {HEAP_BYTES};"
    ))?;
    for &(limit, most) in STATEMENT_LIMITS {
        connection.set_limit(limit, most)?;
    }
    let clock = clock.clone();
    connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || clock.is_over()))?;
    connection.authorizer(Some(|context: AuthContext<'_>| match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if !function_name.eq_ignore_ascii_case("load_extension") => Authorization::Allow,
        _ => Authorization::Deny,
    }))?;
    Ok((connection, schema))
}

fn read_schema(connection: &Connection) -> rusqlite::Result<Schema> {
    let mut names = connection.prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?;
    let names = names.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let columns = |table: &str| -> rusqlite::Result<Vec<String>> {
        let mut columns = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
        columns.query_map([table], |row| Ok(row.get::<_, String>(0)?.to_lowercase()))?.collect()
    };
    let tables = names.iter().map(|table| Ok((table.to_lowercase(), columns(table)?))).collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Schema { tables })
}

fn describe(error: rusqlite::Error) -> QueryError {
    if matches!(error, rusqlite::Error::MultipleStatement) {
        return QueryError::Refused("there are several statements".to_owned());
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::AuthorizationForStatementDenied | ErrorCode::ReadOnly) => QueryError::Refused(error.to_string()),
        Some(ErrorCode::OperationInterrupted) => QueryError::TooLong,
        Some(ErrorCode::TooBig | ErrorCode::OutOfMemory) => QueryError::TooLarge(error.to_string()),
        _ => QueryError::Failed(error.to_string()),
    }
}
