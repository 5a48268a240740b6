-- Four roles for one dljobs database, by psql 15 or newer, as a superuser or a role with CREATEROLE:
--
--     export ADMIN_PASSWORD=… WORKER_PASSWORD=… CLIENT_PASSWORD=… VIEWER_PASSWORD=…
--     psql -X -d dljobs -f deploy/postgres/roles.sql
--
-- dljobs_admin   owns the tables: `dljobs db upgrade`, `node drain`, `gpu release`, `artifacts gc`; backups
-- dljobs_worker  reads and writes rows
-- dljobs_client  submits and changes jobs, and records evaluations; writes nothing that a run has said or stored
-- dljobs_viewer  reads: status, logs, plot, export; for dashboards and guests
--
-- Run it before the first `dljobs db upgrade` and after each one: what clients may write is granted table by table. A
-- password that is not in the environment stays as it is.
\set ON_ERROR_STOP on

SELECT format('CREATE ROLE %I LOGIN', role)
  FROM unnest(ARRAY['dljobs_admin', 'dljobs_worker', 'dljobs_client', 'dljobs_viewer']) AS role
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role)
\gexec
-- What follows is done for the admin, which not only a superuser may do.
SELECT format('GRANT dljobs_admin TO %I', current_user)
 WHERE NOT pg_has_role(current_user, 'dljobs_admin', 'MEMBER')
\gexec

\getenv password ADMIN_PASSWORD
\if :{?password}
    ALTER ROLE dljobs_admin PASSWORD :'password';
    \unset password
\endif
\getenv password WORKER_PASSWORD
\if :{?password}
    ALTER ROLE dljobs_worker PASSWORD :'password';
    \unset password
\endif
\getenv password CLIENT_PASSWORD
\if :{?password}
    ALTER ROLE dljobs_client PASSWORD :'password';
    \unset password
\endif
\getenv password VIEWER_PASSWORD
\if :{?password}
    ALTER ROLE dljobs_viewer PASSWORD :'password';
    \unset password
\endif

BEGIN;
-- A forgotten session of a guest holds back no vacuum.
ALTER ROLE dljobs_viewer SET default_transaction_read_only = on;
ALTER ROLE dljobs_viewer SET statement_timeout = '5min';
ALTER ROLE dljobs_viewer SET idle_in_transaction_session_timeout = '1min';

REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO dljobs_admin, dljobs_worker, dljobs_client, dljobs_viewer;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO dljobs_admin;
GRANT USAGE ON SCHEMA public TO dljobs_worker, dljobs_client, dljobs_viewer;

-- Tables that somebody else has made so far.
SELECT format('ALTER TABLE public.%I OWNER TO dljobs_admin', tablename)
  FROM pg_tables WHERE schemaname = 'public' AND tableowner <> 'dljobs_admin'
\gexec

-- Tables that are there, and those that migrations will make.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO dljobs_worker;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO dljobs_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO dljobs_client, dljobs_viewer;
ALTER DEFAULT PRIVILEGES FOR ROLE dljobs_admin IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO dljobs_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE dljobs_admin IN SCHEMA public GRANT USAGE ON SEQUENCES TO dljobs_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE dljobs_admin IN SCHEMA public GRANT SELECT ON TABLES TO dljobs_client, dljobs_viewer;

-- Only a migration says which schema the tables have.
SELECT 'REVOKE INSERT, UPDATE, DELETE ON public.dljobs_version FROM dljobs_worker'
 WHERE to_regclass('public.dljobs_version') IS NOT NULL
\gexec

-- What submitting, changing and evaluating writes.
CREATE TEMPORARY TABLE writable (name text, privileges text) ON COMMIT DROP;
INSERT INTO writable VALUES
    ('jobs', 'INSERT, UPDATE'),
    ('sets', 'INSERT, UPDATE (max_parallel)'),
    ('dependencies', 'INSERT'),
    ('set_dependencies', 'INSERT'),
    ('sources', 'INSERT'),
    ('events', 'INSERT'),
    ('evaluations', 'INSERT'),
    ('runs', 'UPDATE (checkpoint_requested_at)');
SELECT format('GRANT %s ON public.%I TO dljobs_client', privileges, name)
  FROM writable JOIN pg_tables ON tablename = name AND schemaname = 'public'
\gexec
SELECT format('GRANT USAGE ON SEQUENCE public.%I TO dljobs_client', sequencename)
  FROM writable JOIN pg_sequences ON sequencename = name || '_id_seq' AND schemaname = 'public'
\gexec
COMMIT;
