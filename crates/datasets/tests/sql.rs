//! Queries in the sandbox: what is allowed works, and what a hostile prediction may try is refused or cut off.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_datasets::sql::results::same_result;
use peftbench_datasets::sql::{Database, Limits, QueryError, Rows, Sandbox, Value};
use rusqlite::Connection;
use std::time::{Duration, Instant};

const SCRIPT: &str = "
    CREATE TABLE singer (Singer_ID INTEGER PRIMARY KEY, Name TEXT, Age INTEGER);
    INSERT INTO singer VALUES (1, 'Joe', 52), (2, 'Rosé', 32), (3, NULL, 25);";

fn limits() -> Limits {
    Limits { seconds: 1.0, rows: 1000, bytes: 1 << 20 }
}

fn sandbox() -> Sandbox {
    Sandbox::open(&Database::script("test", SCRIPT), limits()).unwrap()
}

/// A file of its own, in a folder of its own.
fn file() -> (tempfile::TempDir, Database) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b?c#d%.sqlite");
    Connection::open(&path).unwrap().execute_batch(SCRIPT).unwrap();
    (folder, Database::file("file", path))
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

#[test]
fn queries_run_on_scripts_and_files() {
    let (_folder, file) = file();
    for sandbox in [sandbox(), Sandbox::open(&file, limits()).unwrap()] {
        assert_eq!(sandbox.schema().tables, [("singer".to_owned(), ["singer_id", "name", "age"].map(str::to_owned).to_vec())]);
        let rows = sandbox.run("SELECT name, age, age / 2.0 FROM singer ORDER BY age DESC; -- the end\n").unwrap();
        assert_eq!(rows[0], [text("Joe"), Value::Integer(52), Value::Real(26.0)]);
        assert_eq!(rows[2][0], Value::Null);
        let with = sandbox
            .run("WITH old AS (SELECT * FROM singer WHERE age > 30) SELECT count(*), group_concat(name), upper('x') FROM old")
            .unwrap();
        assert_eq!(with, [vec![Value::Integer(2), text("Joe,Rosé"), text("X")]]);
        assert_eq!(sandbox.run("SELECT CAST(x'41ff42' AS TEXT), x'00'").unwrap(), [vec![text("AB"), Value::Blob(vec![0])]]);
    }
}

#[test]
fn whatever_is_not_one_select_is_refused_and_changes_nothing() {
    let (folder, file) = file();
    let elsewhere = folder.path().join("elsewhere.sqlite");
    Connection::open(&elsewhere).unwrap().execute_batch("CREATE TABLE secret (x); INSERT INTO secret VALUES ('secret')").unwrap();
    let sandbox = Sandbox::open(&file, limits()).unwrap();
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = (names(), std::fs::read(folder.path().join("a b?c#d%.sqlite")).unwrap());
    let path = elsewhere.display();
    for query in [
        format!("ATTACH '{path}' AS other"),
        format!("ATTACH DATABASE 'file:{path}?mode=rw' AS other"),
        format!("VACUUM INTO '{path}.copy'"),
        "VACUUM".to_owned(),
        "PRAGMA query_only = OFF".to_owned(),
        "PRAGMA temp_store_directory = '.'".to_owned(),
        "PRAGMA journal_mode = DELETE".to_owned(),
        "SELECT * FROM pragma_database_list".to_owned(),
        "SELECT * FROM pragma_journal_mode('WAL')".to_owned(),
        "SELECT load_extension('libc.so.6')".to_owned(),
        "SELECT * FROM singer WHERE LOAD_EXTENSION('x', 'y')".to_owned(),
        "SELECT readfile('/etc/passwd')".to_owned(),
        "SELECT writefile('x', 'y')".to_owned(),
        "SELECT edit('x')".to_owned(),
        "SELECT fts3_tokenizer('simple', x'4141414141414141')".to_owned(),
        "CREATE VIRTUAL TABLE v USING csv(filename='/etc/passwd')".to_owned(),
        "CREATE VIRTUAL TABLE temp.v USING fts5(x)".to_owned(),
        "CREATE TEMP TABLE t AS SELECT 1".to_owned(),
        "CREATE TABLE t (x)".to_owned(),
        "CREATE TEMP TRIGGER t AFTER INSERT ON singer BEGIN SELECT 1; END".to_owned(),
        "DROP TABLE singer".to_owned(),
        "DELETE FROM singer".to_owned(),
        "UPDATE singer SET age = 0".to_owned(),
        "INSERT INTO singer VALUES (9, 'x', 1) RETURNING *".to_owned(),
        "WITH x AS (SELECT 1) DELETE FROM singer RETURNING age".to_owned(),
        "REPLACE INTO singer VALUES (1, 'x', 1)".to_owned(),
        "ALTER TABLE singer RENAME TO s".to_owned(),
        "ANALYZE".to_owned(),
        "REINDEX".to_owned(),
        "BEGIN EXCLUSIVE".to_owned(),
        "SAVEPOINT s".to_owned(),
        "DETACH main".to_owned(),
        "EXPLAIN DELETE FROM singer".to_owned(),
        "SELECT 1; SELECT 2".to_owned(),
        "SELECT 1; DROP TABLE singer".to_owned(),
        "; ;".to_owned(),
        String::new(),
        "-- nothing".to_owned(),
        "SELECT 1\0; DROP TABLE singer".to_owned(),
        "SELECT ?1, :x".to_owned(),
        "not SQL at all".to_owned(),
    ] {
        let error = sandbox.run(&query).expect_err(&query);
        assert!(matches!(error, QueryError::Refused(_) | QueryError::Failed(_)), "{query}: {error:?}");
        assert!(!error.to_string().contains("secret"));
    }
    assert!(matches!(sandbox.run("ATTACH 'x' AS y"), Err(QueryError::Refused(_))));
    assert_eq!((names(), std::fs::read(folder.path().join("a b?c#d%.sqlite")).unwrap()), before);
    assert_eq!(sandbox.run("SELECT count(*) FROM singer").unwrap(), [vec![Value::Integer(3)]]);
}

/// Runs each query; none may take much longer than the limit, and the sandbox must work afterwards.
fn all_are_cut_off(queries: &[&str]) {
    let sandbox = sandbox();
    for query in queries {
        let start = Instant::now();
        let error = sandbox.run(query).expect_err(query);
        assert!(matches!(error, QueryError::TooLong | QueryError::TooLarge(_) | QueryError::Failed(_)), "{query}: {error:?}");
        assert!(start.elapsed() < Duration::from_secs(8), "{query}: {:?}", start.elapsed());
        assert_eq!(sandbox.run("SELECT count(*) FROM singer").unwrap(), [vec![Value::Integer(3)]], "{query}");
    }
}

#[test]
fn endless_queries_are_cut_off() {
    all_are_cut_off(&[
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n WHERE x < 0",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 500) SELECT count(*) FROM n a, n b, n c, n d WHERE a.x + b.x + c.x + d.x < 0",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION SELECT x + 1 FROM n) SELECT max(x) FROM n ORDER BY x",
    ]);
}

#[test]
fn queries_that_fill_the_memory_are_cut_off() {
    all_are_cut_off(&[
        "SELECT length(randomblob(1000000000))",
        "SELECT zeroblob(2000000000)",
        "SELECT printf('%.*c', 1000000000, 'x')",
        "SELECT printf('%1000000000d', 1)",
        "SELECT hex(zeroblob(150000))",
        "SELECT replace(hex(zeroblob(90000)), '0', '0123456789')",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 10000000) SELECT group_concat(hex(randomblob(100))) FROM n",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 1000000) SELECT json_group_array(hex(randomblob(1000))) FROM n",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 100000000) SELECT hex(randomblob(50000)) AS y FROM n ORDER BY y",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT hex(randomblob(9000)) FROM n",
        "WITH RECURSIVE n(x, y) AS (SELECT 1, 'aaaaaaaa' UNION ALL SELECT x + 1, y || y FROM n) SELECT max(length(y)) FROM n",
    ]);
}

#[test]
fn statements_that_are_hard_to_prepare_are_cut_off() {
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    let nots = format!("SELECT {} 1", "NOT ".repeat(10_000));
    let long = format!("SELECT 1 {}", "+ 1 ".repeat(100_000));
    let wide = format!("SELECT {}1", "1, ".repeat(3000));
    let union = vec!["SELECT 1"; 300].join(" UNION ALL ");
    let nested = format!("SELECT * FROM {} singer {}", "(SELECT * FROM ".repeat(3000), ")".repeat(3000));
    let joins = format!("SELECT count(*) FROM singer {}", (0..80).map(|k| format!("JOIN singer s{k}")).collect::<Vec<_>>().join(" "));
    let doubling: Vec<String> = (1..40).map(|k| format!("c{k} AS (SELECT a.x FROM c{0} a, c{0} b)", k - 1)).collect();
    let doubling = format!("WITH c0 AS (SELECT 1 AS x), {} SELECT * FROM c39", doubling.join(", "));
    all_are_cut_off(&[&deep, &nots, &long, &wide, &union, &nested, &joins, &doubling]);
}

#[test]
fn patterns_that_backtrack_end() {
    let sandbox = sandbox();
    for query in [
        "SELECT hex(zeroblob(90000)) LIKE '%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%1'",
        "SELECT hex(zeroblob(90000)) GLOB '*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*1'",
        "SELECT instr(hex(zeroblob(90000)), hex(zeroblob(45000)) || '1')",
    ] {
        let start = Instant::now();
        let _any = sandbox.run(query);
        assert!(start.elapsed() < Duration::from_secs(8), "{query}: {:?}", start.elapsed());
    }
}

#[test]
fn files_that_are_no_database_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sqlite");
    let error = |path| Sandbox::open(&Database::file("x", path), limits()).err().unwrap().to_string();
    assert!(error(path.clone()).contains("does not exist"));
    std::fs::write(&path, "this is not a database, but it is long enough to have a header of one hundred bytes and some more of it")
        .unwrap();
    assert!(error(path).contains("database x"), "a text file");
}

#[test]
fn results_are_compared_as_bags_of_rows_under_an_order_of_columns() {
    let rows = |values: &[&[i64]]| -> Rows { values.iter().map(|row| row.iter().map(|&x| Value::Integer(x)).collect()).collect() };
    let gold = rows(&[&[1, 2, 2], &[3, 4, 4], &[1, 2, 2]]);
    assert!(same_result(&gold, &rows(&[&[4, 3, 4], &[2, 1, 2], &[2, 1, 2]]), false));
    assert!(!same_result(&gold, &rows(&[&[4, 3, 4], &[2, 1, 2], &[2, 1, 2]]), true), "order");
    assert!(!same_result(&gold, &rows(&[&[4, 3, 4], &[4, 3, 4], &[2, 1, 2]]), false), "how often");
    assert!(!same_result(&gold, &rows(&[&[1, 2], &[3, 4], &[1, 2]]), false), "columns");
    // Each row can be permuted into its partner, but not by one order of the columns.
    assert!(!same_result(&rows(&[&[1, 2], &[3, 4]]), &rows(&[&[1, 2], &[4, 3]]), false));
    assert!(same_result(&Vec::new(), &Vec::new(), true) && !same_result(&gold, &Vec::new(), false));
    let mixed = |value| vec![vec![value]];
    assert!(same_result(&mixed(Value::Integer(3)), &mixed(Value::Real(3.0)), false));
    assert!(!same_result(&mixed(Value::Integer(3)), &mixed(text("3")), false));
    assert!(same_result(&mixed(Value::Null), &mixed(Value::Null), true));
}
