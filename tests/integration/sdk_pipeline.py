"""The pipeline, written with SageMaker's SDK 2; it runs in the environment of the toolkits, without this project.

    AWS_ENDPOINT_URL=... .venv-sagemaker/bin/python -P tests/integration/sdk_pipeline.py '{"role": ..., "image": ...}'

Its last line is a JSON object: ``pipeline``, with the trainer's image, written with the SDK's own classes; ``report``,
the pipeline of the report (docs/background.md), with AWS's PyTorch image and scripts as processing steps; and
``tuning``. The SDK uploads the report's scripts to a stand-in for AWS.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import boto3
from sagemaker import image_uris
from sagemaker.estimator import Estimator
from sagemaker.inputs import TrainingInput
from sagemaker.processing import ProcessingInput, ProcessingOutput, Processor, ScriptProcessor
from sagemaker.pytorch import PyTorch
from sagemaker.tuner import CategoricalParameter, ContinuousParameter, HyperparameterTuner
from sagemaker.workflow.condition_step import ConditionStep
from sagemaker.workflow.conditions import ConditionGreaterThan, ConditionGreaterThanOrEqualTo
from sagemaker.workflow.execution_variables import ExecutionVariables
from sagemaker.workflow.functions import Join, JsonGet
from sagemaker.workflow.parameters import ParameterString
from sagemaker.workflow.pipeline import Pipeline
from sagemaker.workflow.pipeline_context import PipelineSession
from sagemaker.workflow.properties import PropertyFile
from sagemaker.workflow.retry import (
    SageMakerJobExceptionTypeEnum,
    SageMakerJobStepRetryPolicy,
    StepExceptionTypeEnum,
    StepRetryPolicy,
)
from sagemaker.workflow.steps import CacheConfig, ProcessingStep, TrainingStep, TuningStep

Json: TypeAlias = dict[str, Any]

BASE = "/opt/ml/processing"
QUIET = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
"""Without it, the SDK sends telemetry about every call."""


def start_session(options: Json) -> PipelineSession:
    boto_session = boto3.Session(region_name=options["region"])
    return PipelineSession(boto_session=boto_session, default_bucket=options["bucket"], sagemaker_config=QUIET)


def retries(job: bool = True) -> list[StepRetryPolicy | SageMakerJobStepRetryPolicy]:
    """The retry policies of a step; ``job``: also after an error in the job itself."""
    faults = [StepExceptionTypeEnum.SERVICE_FAULT, StepExceptionTypeEnum.THROTTLING]
    policies: list[StepRetryPolicy | SageMakerJobStepRetryPolicy] = [
        StepRetryPolicy(faults, interval_seconds=10, backoff_rate=2.0, max_attempts=5)
    ]
    kinds = SageMakerJobExceptionTypeEnum
    if job:
        job_retry = {"interval_seconds": 30, "backoff_rate": 2.0, "max_attempts": 3}
        policies.append(SageMakerJobStepRetryPolicy([kinds.INTERNAL_ERROR], **job_retry))
    no_capacity = [kinds.CAPACITY_ERROR, kinds.RESOURCE_LIMIT]
    policies.append(SageMakerJobStepRetryPolicy(no_capacity, interval_seconds=300, backoff_rate=2.0, max_attempts=6))
    return policies


def define(name: str, parameters: list[ParameterString], steps: list[Any], session: PipelineSession) -> Json:
    definition: Json = json.loads(Pipeline(name, parameters, steps=steps, sagemaker_session=session).definition())
    return definition


class TrainerPipeline:
    """The pipeline with the trainer's image."""

    def __init__(self, options: Json) -> None:
        self.options, self.session = options, start_session(options)
        self.prefix = f"s3://{options['bucket']}/{options['prefix']}"
        self.parameters = {
            name: ParameterString(name, default_value=value) for name, value in options["parameters"].items()
        }
        self.report = PropertyFile("EvaluationReport", "evaluation", "evaluation.json")
        self.deployed = PropertyFile("DeployedAccuracy", "evaluation", "accuracy.json")

    def definition(self) -> Json:
        train = self.train()
        archive = train.properties.ModelArtifacts.S3ModelArtifacts
        evaluate = self.evaluate(archive)
        written = evaluate.properties.ProcessingOutputConfig.Outputs["evaluation"].S3Output.S3Uri
        evaluation = ProcessingInput(written, f"{BASE}/evaluation", "evaluation")
        condition = ConditionStep(
            "Is-the-new-model-better",
            conditions=[self.is_better()],
            if_steps=[self.update(archive, evaluation)],
            else_steps=[self.keep(evaluation)],
        )
        return define("binwatch", list(self.parameters.values()), [train, evaluate, condition], self.session)

    def train(self) -> TrainingStep:
        parameters, checkpoints = self.parameters, f"{self.prefix}/checkpoints/{self.options['tag']}"
        estimator = Estimator(
            image_uri=self.options["image"],
            role=self.options["role"],
            instance_count=1,
            instance_type=parameters["TrainingInstanceType"],
            output_path=f"{self.prefix}/models",
            sagemaker_session=self.session,
            use_spot_instances=True,
            max_run=24 * 3600,
            max_wait=48 * 3600,
            disable_profiler=True,
            debugger_hook_config=False,
            checkpoint_s3_uri=Join("/", [checkpoints, parameters["Recipe"], parameters["DataVersion"]]),
            environment={"BINWATCH_DATA_VERSION": parameters["DataVersion"]},
            metric_definitions=self.options["metrics"],
            hyperparameters={
                "recipe": parameters["Recipe"],
                "epochs": parameters["Epochs"],
                "batch-size": parameters["BatchSize"],
                "learning-rate": parameters["LearningRate"],
                "counts": parameters["Counts"],
            },
        )
        return TrainingStep(
            "Training",
            step_args=estimator.fit(inputs=TrainingInput(parameters["InputData"])),
            retry_policies=retries(),
            cache_config=CacheConfig(enable_caching=True, expire_after="P30D"),
        )

    def processor(self, *entrypoint: str) -> Processor:
        return Processor(
            image_uri=self.options["image"],
            role=self.options["role"],
            instance_count=1,
            entrypoint=list(entrypoint),
            instance_type=self.parameters["ProcessingInstanceType"],
            sagemaker_session=self.session,
            env={"AWS_DEFAULT_REGION": self.options["region"]},
        )

    def evaluate(self, archive: object) -> ProcessingStep:
        destination = Join("/", [f"{self.prefix}/evaluations", ExecutionVariables.PIPELINE_EXECUTION_ID])
        return ProcessingStep(
            "Evaluation",
            property_files=[self.report, self.deployed],
            retry_policies=retries(),
            step_args=self.processor("python", "-m", "trainer.aws.processing_steps", "evaluate").run(
                arguments=["--counts", self.parameters["Counts"]],
                inputs=[
                    ProcessingInput(archive, f"{BASE}/model", "model"),
                    ProcessingInput(self.parameters["InputData"], f"{BASE}/photos", "photos"),
                    ProcessingInput(f"{self.prefix}/accuracy.json", f"{BASE}/accuracy", "accuracy"),
                ],
                outputs=[ProcessingOutput(f"{BASE}/evaluation", destination, "evaluation")],
            ),
        )

    def is_better(self) -> ConditionGreaterThan:
        path = "multiclass_classification_metrics.accuracy.value"
        return ConditionGreaterThan(
            JsonGet(step_name="Evaluation", property_file=self.report, json_path=path),
            JsonGet(step_name="Evaluation", property_file=self.deployed, json_path="accuracy"),
        )

    def update(self, archive: object, evaluation: ProcessingInput) -> ProcessingStep:
        arguments = ["--archive", f"{BASE}/model/model.tar.gz"]
        arguments += ["--evaluation", f"{BASE}/evaluation/evaluation.json"]
        for name in ("role", "bucket", "prefix"):
            arguments += [f"--{name}", self.options[name]]
        return ProcessingStep(
            "Update-endpoint",
            retry_policies=retries(job=False),
            step_args=self.processor("python", "scripts/deploy_sagemaker.py").run(
                arguments=arguments,
                inputs=[ProcessingInput(archive, f"{BASE}/model", "model"), evaluation],
            ),
        )

    def keep(self, evaluation: ProcessingInput) -> ProcessingStep:
        processor = self.processor("python", "-m", "trainer.aws.processing_steps", "keep")
        return ProcessingStep(
            "Keep-the-deployed-model", retry_policies=retries(), step_args=processor.run(inputs=[evaluation])
        )


class ReportPipeline:
    """The pipeline as the report describes it: PyTorch 1.8, one script per step, on the photos' ``test`` folder."""

    def __init__(self, options: Json, folder: Path) -> None:
        self.options, self.session, self.folder = options, start_session(options), folder
        self.prefix = f"s3://{options['bucket']}/{options['prefix']}"
        self.machine = ParameterString("TrainingInstanceType", default_value="ml.g4dn.xlarge")
        self.photos = ParameterString("InputData", default_value=f"{self.prefix}/data/")
        self.new = PropertyFile("EvaluationReport", "evaluation", "evaluation.json")
        self.last = PropertyFile("LastReport", "evaluation", "current_accuracy.json")
        self.script = folder / "step.py"
        self.script.write_text("")

    def definition(self) -> Json:
        train = self.train()
        archive = train.properties.ModelArtifacts.S3ModelArtifacts
        evaluate, processor = self.evaluate(archive), self.processor("ml.m5.large")
        inputs = [ProcessingInput(archive, f"{BASE}/model")]
        update = ProcessingStep("Update-endpoint", step_args=processor.run(code=str(self.script), inputs=inputs))
        keep = ProcessingStep("Too-bad", step_args=processor.run(code=str(self.script)))
        is_better = ConditionGreaterThanOrEqualTo(
            JsonGet(step_name="Evaluation", property_file=self.new, json_path="test_accuracy"),
            JsonGet(step_name="Evaluation", property_file=self.last, json_path="Accuracy_of_deployed_model"),
        )
        condition = ConditionStep("Is-it-better", conditions=[is_better], if_steps=[update], else_steps=[keep])
        return define("CapstonePipeline", [self.machine, self.photos], [train, evaluate, condition], self.session)

    def train(self) -> TrainingStep:
        estimator = PyTorch(
            entry_point=self.script.name,
            source_dir=str(self.folder),
            role=self.options["role"],
            py_version="py36",
            framework_version="1.8",
            instance_count=1,
            instance_type="ml.g4dn.xlarge",
            output_path=f"{self.prefix}/pipeline_model",
            hyperparameters={"batch-size": 64, "lr": 0.01},
            sagemaker_session=self.session,
        )
        return TrainingStep("Training", step_args=estimator.fit(inputs=TrainingInput(self.photos)))

    def processor(self, instance_type: str | ParameterString) -> ScriptProcessor:
        image = image_uris.retrieve(
            "pytorch",
            self.options["region"],
            version="1.8",
            py_version="py36",
            instance_type="ml.g4dn.xlarge",
            image_scope="training",
        )
        return ScriptProcessor(
            image_uri=image,
            command=["python3"],
            instance_type=instance_type,
            role=self.options["role"],
            instance_count=1,
            sagemaker_session=self.session,
        )

    def evaluate(self, archive: object) -> ProcessingStep:
        return ProcessingStep(
            "Evaluation",
            property_files=[self.new, self.last],
            step_args=self.processor(self.machine).run(
                code=str(self.script),
                inputs=[
                    ProcessingInput(archive, f"{BASE}/model"),
                    ProcessingInput(f"{self.prefix}/data/test", f"{BASE}/test"),
                    ProcessingInput(f"{self.prefix}/current_accuracy.json", f"{BASE}/accuracy"),
                ],
                outputs=[ProcessingOutput(f"{BASE}/evaluation", output_name="evaluation")],
            ),
        )


def tuning(options: Json) -> Json:
    session, prefix = start_session(options), f"s3://{options['bucket']}/{options['prefix']}"
    estimator = Estimator(
        image_uri=options["image"],
        role=options["role"],
        instance_count=1,
        instance_type="ml.g4dn.xlarge",
        output_path=f"{prefix}/models/search",
        checkpoint_s3_uri=f"{prefix}/checkpoints/search",
        sagemaker_session=session,
        use_spot_instances=True,
        max_run=24 * 3600,
        max_wait=48 * 3600,
        max_retry_attempts=3,
        hyperparameters={"recipe": "hpo-frozen", "export": "false"},
        disable_profiler=True,
        debugger_hook_config=False,
    )
    ranges = {
        "learning-rate": ContinuousParameter(0.001, 0.1, "Logarithmic"),
        "batch-size": CategoricalParameter([16, 32, 64]),
        "architecture": CategoricalParameter(["resnet34", "vgg16", "alexnet"]),
    }
    tuner = HyperparameterTuner(
        estimator,
        "best_validation_loss",
        ranges,
        options["metrics"],
        objective_type="Minimize",
        max_jobs=5,
        max_parallel_jobs=1,
        early_stopping_type="Auto",
    )
    step = TuningStep("tune", step_args=tuner.fit(inputs=TrainingInput(f"{prefix}/data/")))
    arguments: Json = step.to_request()["Arguments"]
    return arguments


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the SDK warns a dozen times that it is deprecated
    arguments = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        report = ReportPipeline(arguments, Path(folder)).definition()
    print(
        json.dumps({"pipeline": TrainerPipeline(arguments).definition(), "report": report, "tuning": tuning(arguments)})
    )
