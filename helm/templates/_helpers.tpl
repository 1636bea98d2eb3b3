{{- define "monosem.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "monosem.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "monosem.selector" . }}
{{- end }}

{{- define "monosem.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* An image by digest, else by tag. Takes (root, image). */}}
{{- define "monosem.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 -}}
{{- if $image.digest -}}{{ $image.repository }}@{{ $image.digest }}
{{- else -}}{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{- define "monosem.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "monosem.name" .) "default" .Values.serviceAccount.create) -}}
{{- end }}

{{- define "monosem.browser.serviceAccount" -}}
{{- $account := .Values.browser.serviceAccount -}}
{{- $account.name | default (ternary (printf "%s-browser" (include "monosem.name" .)) "default" $account.create) -}}
{{- end }}

{{- define "monosem.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "monosem.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Credentials of the object store by reference, never by value. Takes (root, name of the Secret). */}}
{{- define "monosem.storeEnv" -}}
{{- $root := index . 0 }}{{ $secret := index . 1 }}
{{- if $secret }}
{{- /* Offline there is no namespace to look into; on a real cluster a missing Secret is said before anything starts. */}}
{{- if and (lookup "v1" "Namespace" "" $root.Release.Namespace) (not (lookup "v1" "Secret" $root.Release.Namespace $secret)) }}
{{- fail (printf "objectStore: there is no Secret %q in namespace %q: make it, with keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" $secret $root.Release.Namespace) }}
{{- end }}
{{- range $name := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ $name }}}}
{{- end }}
{{- end }}
{{- with $root.Values.objectStore.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with $root.Values.objectStore.region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "monosem.rayEnv" -}}
{{- $check := .Values.cluster.healthCheck -}}
- {name: RAY_health_check_period_ms, value: {{ $check.periodMilliseconds | toString | quote }}}
- {name: RAY_health_check_timeout_ms, value: {{ $check.timeoutMilliseconds | toString | quote }}}
- {name: RAY_health_check_failure_threshold, value: {{ $check.failureThreshold | toString | quote }}}
- {name: RAY_health_check_initial_delay_ms, value: {{ $check.initialDelayMilliseconds | toString | quote }}}
- {name: RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S, value: "900"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- include "monosem.storeEnv" (list . .Values.objectStore.existingSecret) }}
{{- range $name, $value := .Values.env }}
{{- if or (regexMatch "(?i)(secret|token|passw|credential|api_?key|access_?key|private_?key)" $name) (regexMatch "://[^/@]*:[^/@]*@" $value) }}
{{- fail (printf "env.%s: this looks like a secret, and values are stored in the open: put it into a Secret and name that under secretEnv" $name) }}
{{- end }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- range .Values.secretEnv }}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end }}
{{- end }}

{{- /* The pod of the head or of a group's workers. Takes (root, group, component). */}}
{{- define "monosem.rayPod" -}}
{{- $root := index . 0 }}{{ $group := index . 1 }}{{ $component := index . 2 }}{{ $isHead := eq $component "head" -}}
{{- $protected := not ($group.spot | default false) -}}
metadata:
  labels:
    {{- include "monosem.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
    monosem/ray: "true"
  annotations:
    cluster-autoscaler.kubernetes.io/safe-to-evict: {{ not $protected | toString | quote }}
    karpenter.sh/do-not-disrupt: {{ $protected | toString | quote }}
spec:
  serviceAccountName: {{ include "monosem.serviceAccount" $root }}
  automountServiceAccountToken: {{ $isHead }}
  {{- with $root.Values.priorityClass.name }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ ternary 120 25 $protected }}
  securityContext: {{ include "monosem.podSecurity" $root | nindent 4 }}
  {{- with $group.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $group.affinity }}
  affinity: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- if or $group.tolerations $group.gpus }}
  tolerations:
    {{- if $group.gpus }}
    - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
    {{- end }}
    {{- with $group.tolerations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - name: ray-{{ ternary "head" "worker" $isHead }}
      image: {{ include "monosem.image" (list $root $root.Values.image) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext: {{ include "monosem.containerSecurity" $root | nindent 8 }}
      env: {{ include "monosem.rayEnv" $root | nindent 8 }}
      ports:
        - {name: metrics, containerPort: 8080}
        {{- if $isHead }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        {{- range $root.Values.metrics.jobPorts }}
        - {name: job-{{ . }}, containerPort: {{ . }}}
        {{- end }}
        {{- end }}
      resources:
        requests: {{ toYaml $group.resources | nindent 10 }}
          {{- if $group.gpus }}
          nvidia.com/gpu: {{ $group.gpus }}
          {{- end }}
        limits:
          memory: {{ $group.resources.memory }}
          {{- if $group.gpus }}
          nvidia.com/gpu: {{ $group.gpus }}
          {{- end }}
      volumeMounts:
        - {name: temporary, mountPath: /tmp}
        - {name: shared-memory, mountPath: /dev/shm}
  volumes:
    - {name: temporary, emptyDir: {sizeLimit: {{ $group.temporary }}}}
    - {name: shared-memory, emptyDir: {medium: Memory, sizeLimit: {{ $group.sharedMemory }}}}
{{- end }}

{{- /* The specification of a Ray cluster: of the release's own, and of one that is made for a job. */}}
{{- define "monosem.rayClusterSpec" -}}
rayVersion: {{ .Values.cluster.rayVersion | quote }}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  upscalingMode: Default
  idleTimeoutSeconds: {{ .Values.cluster.idleTimeoutSeconds }}
  resources:
    requests: {{ toYaml .Values.cluster.autoscaler.resources | nindent 6 }}
    limits: {memory: {{ .Values.cluster.autoscaler.resources.memory }}}
  securityContext: {{ include "monosem.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: temporary, mountPath: /tmp}
authOptions:
  mode: {{ .Values.auth.mode }}
  {{- if and (eq .Values.auth.mode "token") .Values.auth.existingSecret }}
  secretName: {{ .Values.auth.existingSecret }}
  {{- end }}
headGroupSpec:
  # No work on the head: what runs there must outlive every worker.
  resources: {CPU: "0"}
  rayStartParams:
    dashboard-host: 0.0.0.0
    metrics-export-port: "8080"
  template: {{ include "monosem.rayPod" (list . .Values.cluster.head "head") | nindent 4 }}
workerGroupSpecs:
  {{- range $name, $group := .Values.groups }}
  {{- if $group.enabled }}
  {{- if has $name (list "head" "browser") }}
  {{- fail (printf "groups.%s: the chart has a part of that name already: choose another" $name) }}
  {{- end }}
  {{- if gt (int $group.minReplicas) (int $group.maxReplicas) }}
  {{- fail (printf "groups.%s: minReplicas %v is more than maxReplicas %v" $name $group.minReplicas $group.maxReplicas) }}
  {{- end }}
  - groupName: {{ $name }}
    replicas: {{ $group.minReplicas }}
    minReplicas: {{ $group.minReplicas }}
    maxReplicas: {{ $group.maxReplicas }}
    # Labels of Ray's nodes, by which work finds its group; the autoscaler knows them of a group at zero, too.
    labels: {monosem-group: {{ $name }}}
    rayStartParams:
      metrics-export-port: "8080"
    template: {{ include "monosem.rayPod" (list $ $group $name) | nindent 6 }}
  {{- end }}
  {{- end }}
{{- end }}

{{- /* Nested keys as ` 'section.key=JSON'`, each quoted for the shell. Takes (prefix, value). */}}
{{- define "monosem.overrides" -}}
{{- $prefix := index . 0 }}{{ $value := index . 1 -}}
{{- if and (kindIs "map" $value) $value -}}
{{- range $key, $below := $value }}{{ include "monosem.overrides" (list (ternary (printf "%s.%s" $prefix $key) $key (ne $prefix "")) $below) }}{{ end -}}
{{- else }} '{{ printf "%s=%s" $prefix (toJson $value) | replace "'" "'\\''" }}'
{{- end -}}
{{- end }}
