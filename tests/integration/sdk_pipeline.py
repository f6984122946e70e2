"""What SageMaker's SDK 2 makes of the pipeline; runs in the environment of the toolkits, which has no binwatch.

    AWS_ENDPOINT_URL=... .venv-sagemaker/bin/python -P tests/integration/sdk_pipeline.py '{"role": ..., "image": ...}'

Its last line is a JSON object: ``pipeline`` with the trainer's image, written with the SDK's own classes; ``report``,
the pipeline of the report, with AWS's PyTorch image and scripts as processing steps; ``tuning``. The SDK uploads the
report's scripts, to a stand-in for AWS.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

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

BASE = "/opt/ml/processing"


QUIET = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
"""The SDK tells its makers about every call otherwise."""


def session(given: dict[str, Any]) -> PipelineSession:
    boto = boto3.Session(region_name=given["region"])
    return PipelineSession(boto_session=boto, default_bucket=given["bucket"], sagemaker_config=QUIET)


def retries(machines: bool = True, job: bool = True) -> list[Any]:
    of = StepExceptionTypeEnum
    found: list[Any] = [
        StepRetryPolicy([of.SERVICE_FAULT, of.THROTTLING], interval_seconds=10, backoff_rate=2.0, max_attempts=5)
    ]
    kinds = SageMakerJobExceptionTypeEnum
    if job:
        found.append(
            SageMakerJobStepRetryPolicy([kinds.INTERNAL_ERROR], interval_seconds=30, backoff_rate=2.0, max_attempts=3)
        )
    if machines:
        no_machine = [kinds.CAPACITY_ERROR, kinds.RESOURCE_LIMIT]
        found.append(SageMakerJobStepRetryPolicy(no_machine, interval_seconds=300, backoff_rate=2.0, max_attempts=6))
    return found


def pipeline(given: dict[str, Any]) -> dict[str, Any]:
    of = session(given)
    place = f"s3://{given['bucket']}/{given['prefix']}"
    named = {name: ParameterString(name, default_value=value) for name, value in given["parameters"].items()}
    estimator = Estimator(
        image_uri=given["image"],
        role=given["role"],
        instance_count=1,
        instance_type=named["TrainingInstanceType"],
        output_path=f"{place}/models",
        sagemaker_session=of,
        use_spot_instances=True,
        max_run=24 * 3600,
        max_wait=48 * 3600,
        disable_profiler=True,
        debugger_hook_config=False,
        checkpoint_s3_uri=Join("/", [f"{place}/checkpoints/{given['tag']}", named["Recipe"], named["DataVersion"]]),
        environment={"BINWATCH_DATA_VERSION": named["DataVersion"]},
        metric_definitions=given["metrics"],
        hyperparameters={
            "recipe": named["Recipe"],
            "epochs": named["Epochs"],
            "batch-size": named["BatchSize"],
            "learning-rate": named["LearningRate"],
            "counts": named["Counts"],
        },
    )
    train = TrainingStep(
        "Training",
        step_args=estimator.fit(inputs=TrainingInput(named["InputData"])),
        retry_policies=retries(),
        cache_config=CacheConfig(enable_caching=True, expire_after="P30D"),
    )

    def job(*words: str) -> Processor:
        return Processor(
            image_uri=given["image"],
            role=given["role"],
            instance_count=1,
            entrypoint=list(words),
            instance_type=named["ProcessingInstanceType"],
            sagemaker_session=of,
            env={"AWS_DEFAULT_REGION": given["region"]},
        )

    archive = train.properties.ModelArtifacts.S3ModelArtifacts
    report = PropertyFile("EvaluationReport", "evaluation", "evaluation.json")
    deployed = PropertyFile("DeployedAccuracy", "evaluation", "accuracy.json")
    evaluate = ProcessingStep(
        "Evaluation",
        property_files=[report, deployed],
        retry_policies=retries(),
        step_args=job("python", "-m", "trainer.aws.processing_steps", "evaluate").run(
            arguments=["--counts", named["Counts"]],
            inputs=[
                ProcessingInput(archive, f"{BASE}/model", "model"),
                ProcessingInput(named["InputData"], f"{BASE}/photos", "photos"),
                ProcessingInput(f"{place}/accuracy.json", f"{BASE}/accuracy", "accuracy"),
            ],
            outputs=[
                ProcessingOutput(
                    f"{BASE}/evaluation",
                    Join("/", [f"{place}/evaluations", ExecutionVariables.PIPELINE_EXECUTION_ID]),
                    "evaluation",
                )
            ],
        ),
    )
    written = evaluate.properties.ProcessingOutputConfig.Outputs["evaluation"].S3Output.S3Uri
    evaluation = ProcessingInput(written, f"{BASE}/evaluation", "evaluation")
    update = ProcessingStep(
        "Update-endpoint",
        retry_policies=retries(job=False),
        step_args=job("python", "scripts/deploy_sagemaker.py").run(
            arguments=[
                "--archive",
                f"{BASE}/model/model.tar.gz",
                "--evaluation",
                f"{BASE}/evaluation/evaluation.json",
                "--role",
                given["role"],
                "--bucket",
                given["bucket"],
                "--prefix",
                given["prefix"],
            ],
            inputs=[ProcessingInput(archive, f"{BASE}/model", "model"), evaluation],
        ),
    )
    keep = ProcessingStep(
        "Keep-the-deployed-model",
        retry_policies=retries(),
        step_args=job("python", "-m", "trainer.aws.processing_steps", "keep").run(inputs=[evaluation]),
    )
    better = ConditionGreaterThan(
        JsonGet(
            step_name="Evaluation", property_file=report, json_path="multiclass_classification_metrics.accuracy.value"
        ),
        JsonGet(step_name="Evaluation", property_file=deployed, json_path="accuracy"),
    )
    condition = ConditionStep("Is-the-new-model-better", conditions=[better], if_steps=[update], else_steps=[keep])
    return defined("binwatch", list(named.values()), [train, evaluate, condition], of)


def report(given: dict[str, Any]) -> dict[str, Any]:
    """As the report describes it: PyTorch 1.8, a script a step, on the photos' ``test`` folder."""
    of, role = session(given), given["role"]
    place = f"s3://{given['bucket']}/{given['prefix']}"
    machine = ParameterString("TrainingInstanceType", default_value="ml.g4dn.xlarge")
    photos = ParameterString("InputData", default_value=f"{place}/data")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "step.py"
        script.write_text("")
        estimator = PyTorch(
            entry_point=script.name,
            source_dir=folder,
            role=role,
            py_version="py36",
            framework_version="1.8",
            instance_count=1,
            instance_type="ml.g4dn.xlarge",
            output_path=f"{place}/pipeline_model",
            hyperparameters={"batch-size": 64, "lr": 0.01},
            sagemaker_session=of,
        )
        train = TrainingStep("Training", step_args=estimator.fit(inputs=TrainingInput(photos)))
        image = image_uris.retrieve(
            "pytorch",
            given["region"],
            version="1.8",
            py_version="py36",
            instance_type="ml.g4dn.xlarge",
            image_scope="training",
        )

        def processor(instance_type: Any) -> ScriptProcessor:
            return ScriptProcessor(
                image_uri=image,
                command=["python3"],
                instance_type=instance_type,
                role=role,
                instance_count=1,
                sagemaker_session=of,
            )

        archive = train.properties.ModelArtifacts.S3ModelArtifacts
        new = PropertyFile("EvaluationReport", "evaluation", "evaluation.json")
        last = PropertyFile("LastReport", "evaluation", "current_accuracy.json")
        evaluate = ProcessingStep(
            "Evaluation",
            property_files=[new, last],
            step_args=processor(machine).run(
                code=str(script),
                inputs=[
                    ProcessingInput(archive, f"{BASE}/model"),
                    ProcessingInput(f"{place}/data/test", f"{BASE}/test"),
                    ProcessingInput(f"{place}/current_accuracy.json", f"{BASE}/accuracy"),
                ],
                outputs=[ProcessingOutput(f"{BASE}/evaluation", output_name="evaluation")],
            ),
        )
        small = processor("ml.m5.large")
        update = ProcessingStep(
            "Update-endpoint", step_args=small.run(code=str(script), inputs=[ProcessingInput(archive, f"{BASE}/model")])
        )
        otherwise = ProcessingStep("Too-bad", step_args=small.run(code=str(script)))
        better = ConditionGreaterThanOrEqualTo(
            JsonGet(step_name="Evaluation", property_file=new, json_path="test_accuracy"),
            JsonGet(step_name="Evaluation", property_file=last, json_path="Accuracy_of_deployed_model"),
        )
        condition = ConditionStep("Is-it-better", conditions=[better], if_steps=[update], else_steps=[otherwise])
        return defined("CapstonePipeline", [machine, photos], [train, evaluate, condition], of)


def defined(name: str, parameters: list[Any], steps: list[Any], of: PipelineSession) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Pipeline(name, parameters, steps=steps, sagemaker_session=of).definition())
    return found


def tuning(given: dict[str, Any]) -> dict[str, Any]:
    of, place = session(given), f"s3://{given['bucket']}/{given['prefix']}"
    estimator = Estimator(
        image_uri=given["image"],
        role=given["role"],
        instance_count=1,
        instance_type="ml.g4dn.xlarge",
        output_path=f"{place}/models/search",
        checkpoint_s3_uri=f"{place}/checkpoints/search",
        sagemaker_session=of,
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
        given["metrics"],
        objective_type="Minimize",
        max_jobs=5,
        max_parallel_jobs=1,
        early_stopping_type="Auto",
    )
    step = TuningStep("tune", step_args=tuner.fit(inputs=TrainingInput(f"{place}/data")))
    arguments: dict[str, Any] = step.to_request()["Arguments"]
    return arguments


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the SDK calls itself deprecated, a dozen times
    asked = json.loads(sys.argv[1])
    print(json.dumps({"pipeline": pipeline(asked), "report": report(asked), "tuning": tuning(asked)}))
