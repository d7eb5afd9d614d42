BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'climbing');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'sweep','{"name": "climbing", "description": "", "trainable": "tests.samples:climb", "seed": 0, "dataset": null, "objective": {"metric": "score", "direction": "maximize"}, "budget": {"trials": 6, "epochs": 3.0, "steps": null, "reports_per_epoch": 1, "report_every": null, "parallel": "auto", "timeout": null, "stall_timeout": 3600.0, "max_failures": 1}, "resources": {"cpus": 1.0, "gpus": 0.0}, "space": {"height": {"when": {}, "low": 0.0, "high": 1.0, "step": null, "log": false, "type": "float"}, "kind": {"when": {}, "type": "categorical", "choices": ["a", "b"]}, "steps": {"when": {"kind": ["a"]}, "low": 1, "high": 8, "step": 1, "log": true, "type": "int"}}, "sampler": {"seed": null, "type": "random"}, "pruner": {"min_epochs": 1.0, "min_reports": null, "interval_epochs": null, "interval_reports": null, "n_startup_trials": 1, "n_min_trials": 1, "type": "median"}, "enqueue": [{"height": 0.9}, {"height": 0.1}], "tracking": {"experiment": "sweeper", "model": null, "uri": null}, "storage": "sqlite:///sweeper.db"}');
INSERT INTO "study_user_attributes" VALUES(2,1,'facts','{"folder": "sweeps/climbing", "sweeper": "0.1.0"}');
CREATE TABLE sweeper_attempts (
	sweep VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	step INTEGER NOT NULL, 
	node VARCHAR(255), 
	ended DOUBLE NOT NULL, 
	PRIMARY KEY (sweep, number, attempt)
);
INSERT INTO "sweeper_attempts" VALUES('climbing',2,1,'crash','its worker died',0,NULL,1.79525866426096892356e+09);
INSERT INTO "sweeper_attempts" VALUES('climbing',2,2,'crash','its worker died',0,NULL,1.79525866536553406708e+09);
CREATE TABLE sweeper_leases (
	sweep VARCHAR(64) NOT NULL, 
	owner VARCHAR(32) NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	pid INTEGER NOT NULL, 
	process_started DOUBLE NOT NULL, 
	since DOUBLE NOT NULL, 
	beats BIGINT NOT NULL, 
	PRIMARY KEY (sweep)
);
CREATE TABLE sweeper_orders (
	sweep VARCHAR(64) NOT NULL, 
	wish VARCHAR(16) NOT NULL, 
	is_followed BOOLEAN NOT NULL, 
	PRIMARY KEY (sweep)
);
CREATE TABLE sweeper_reports (
	sweep VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	time DOUBLE NOT NULL, 
	metrics TEXT NOT NULL, 
	PRIMARY KEY (sweep, number, step)
);
INSERT INTO "sweeper_reports" VALUES('climbing',0,1,1.0,'{"score": 0.9, "loss": 1.0}');
INSERT INTO "sweeper_reports" VALUES('climbing',0,2,2.0,'{"score": 1.8, "loss": 1.0}');
INSERT INTO "sweeper_reports" VALUES('climbing',0,3,3.0,'{"score": 2.7, "loss": 1.0}');
INSERT INTO "sweeper_reports" VALUES('climbing',1,1,1.0,'{"score": 0.1, "loss": 1.0}');
INSERT INTO "sweeper_reports" VALUES('climbing',3,1,1.0,'{"score": 0.9636627605010293, "loss": 1.0}');
CREATE TABLE sweeper_schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "sweeper_schema" VALUES(1);
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,1,1,0.9,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,2,1.8,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,1,3,2.7,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,2,1,0.1,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(5,4,1,9.63662760501029280746e-01,'FINITE');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'height',0.9,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(2,1,'kind',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["a", "b"]}}');
INSERT INTO "trial_params" VALUES(3,2,'height',0.1,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(4,2,'kind',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["a", "b"]}}');
INSERT INTO "trial_params" VALUES(5,2,'steps',2.0,'{"name": "IntDistribution", "attributes": {"log": true, "step": 1, "low": 1, "high": 8}}');
INSERT INTO "trial_params" VALUES(6,3,'height',6.45894113066656117005e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(7,3,'kind',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["a", "b"]}}');
INSERT INTO "trial_params" VALUES(8,4,'height',9.63662760501029280746e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(9,4,'kind',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["a", "b"]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'fixed_params','{"height": 0.9}');
INSERT INTO "trial_system_attributes" VALUES(2,2,'fixed_params','{"height": 0.1}');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'node','"laptop"');
INSERT INTO "trial_user_attributes" VALUES(2,2,'node','"laptop"');
INSERT INTO "trial_user_attributes" VALUES(3,2,'reason','"pruned after epoch 1"');
INSERT INTO "trial_user_attributes" VALUES(4,3,'attempt','2');
INSERT INTO "trial_user_attributes" VALUES(5,3,'reason','"its worker died; attempt 2 was the last"');
INSERT INTO "trial_user_attributes" VALUES(6,4,'node','"laptop"');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,2.7,'FINITE');
INSERT INTO "trial_values" VALUES(2,2,0,0.1,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-21 10:57:44.214437','2026-11-21 10:57:44.228166');
INSERT INTO "trials" VALUES(2,1,1,'PRUNED','2026-11-21 10:57:44.231240','2026-11-21 10:57:44.254545');
INSERT INTO "trials" VALUES(3,2,1,'FAIL','2026-11-21 10:57:44.257219','2026-11-21 10:57:45.366016');
INSERT INTO "trials" VALUES(4,3,1,'RUNNING','2026-11-21 10:57:45.367566',NULL);
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
