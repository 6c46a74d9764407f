# NATS, gateway, scheduler and autoscaler on one node; workers are launched by the autoscaler.
#
#   nomad job run -var config=/srv/stoker stoker.nomad.hcl
#
# Passwords are Nomad variables, which a task reads with its own identity: no password is in this file, on a command
# line or in `nomad job inspect`. A task waits until its variable is there, and starts again when it changes. Once:
#
#   nomad var put nomad/jobs/stoker/stoker/nats gateway=… scheduler=… worker=… autoscaler=… client=… operator=…
#   nomad var put nomad/jobs/stoker/stoker/init password=…          the operator's
#   nomad var put nomad/jobs/stoker/stoker/gateway password=…
#   nomad var put nomad/jobs/stoker/stoker/scheduler password=…
#   nomad var put nomad/jobs/stoker/stoker/autoscaler password=… nomad_token=…    the token submits jobs; "" without ACLs
#   nomad var put nomad/jobs stoker_worker_password=…               every job of the namespace may read this one
#
# With Vault instead: a `vault {}` block in each task, and in its template, for a secret of version 2 of the KV engine,
# {{ with secret "secret/data/stoker/gateway" }}{{ .Data.data.password | toJSON }}{{ end }}.

variable "datacenters" {
  type        = list(string)
  default     = ["*"]
  description = "Where it may run."
}
variable "image" {
  type        = string
  default     = "stoker"
  description = "Image with the services: target `services` of deploy/Dockerfile."
}
variable "nats_image" {
  type        = string
  default     = "stoker-nats"
  description = "Image with NATS: target `nats` of deploy/Dockerfile."
}
variable "config" {
  type        = string
  description = "Folder on the node with stoker.yaml, profiles and models."
}
variable "nats_volume" {
  type        = string
  default     = "stoker-nats"
  description = "Host volume of the node's client configuration, on a disk that stays."
}
variable "port" {
  type        = number
  default     = 8000
  description = "Port of the gateway."
}

job "stoker" {
  type        = "service"
  datacenters = var.datacenters

  group "stoker" {
    count = 1

    volume "nats" { # jobs, results and keys: kept when the job is placed anew on this node
      type      = "host"
      source    = var.nats_volume
      read_only = false
    }

    task "nats" {
      driver = "docker"
      volume_mount {
        volume      = "nats"
        destination = "/data"
      }
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }
      config {
        image        = var.nats_image
        network_mode = "host"
      }
      env {
        NATS_LISTEN = "0.0.0.0:4222"
        NATS_STORE  = "/data"
      }
      template { # in quotes twice: to NATS true and 12345 are no texts
        destination = "${NOMAD_SECRETS_DIR}/passwords.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/stoker/stoker/nats" -}}
          GATEWAY_PASSWORD={{ .gateway.Value | toJSON | toJSON }}
          SCHEDULER_PASSWORD={{ .scheduler.Value | toJSON | toJSON }}
          WORKER_PASSWORD={{ .worker.Value | toJSON | toJSON }}
          AUTOSCALER_PASSWORD={{ .autoscaler.Value | toJSON | toJSON }}
          CLIENT_PASSWORD={{ .client.Value | toJSON | toJSON }}
          OPERATOR_PASSWORD={{ .operator.Value | toJSON | toJSON }}
          {{ end }}
        EOT
      }
    }

    task "init" { # makes the streams, and upgrades them
      driver = "docker"
      lifecycle {
        hook    = "poststart"
        sidecar = false
      }
      config {
        image        = var.image
        args         = ["install-streams"]
        network_mode = "host"
      }
      env {
        STOKER_NATS      = "nats://127.0.0.1:4222"
        STOKER_NATS_USER = "operator"
      }
      template {
        destination = "${NOMAD_SECRETS_DIR}/passwords.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/stoker/stoker/init" -}}
          STOKER_NATS_PASSWORD={{ .password.Value | toJSON }}
          {{ end }}
        EOT
      }
    }

    task "gateway" {
      driver = "docker"
      config {
        image        = var.image
        args         = ["gateway", "--host", "0.0.0.0", "--port", "${var.port}", "--config", "/etc/stoker", "--publish"]
        network_mode = "host"
        volumes      = ["${var.config}:/etc/stoker:ro"]
      }
      env {
        STOKER_NATS      = "nats://127.0.0.1:4222"
        STOKER_NATS_USER = "gateway"
      }
      template {
        destination = "${NOMAD_SECRETS_DIR}/passwords.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/stoker/stoker/gateway" -}}
          STOKER_NATS_PASSWORD={{ .password.Value | toJSON }}
          {{ end }}
        EOT
      }
    }

    task "scheduler" {
      driver = "docker"
      config {
        image        = var.image
        args         = ["scheduler"]
        network_mode = "host"
      }
      env {
        STOKER_NATS      = "nats://127.0.0.1:4222"
        STOKER_NATS_USER = "scheduler"
      }
      template {
        destination = "${NOMAD_SECRETS_DIR}/passwords.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/stoker/stoker/scheduler" -}}
          STOKER_NATS_PASSWORD={{ .password.Value | toJSON }}
          {{ end }}
        EOT
      }
    }

    task "autoscaler" {
      driver = "docker"
      config {
        image        = var.image
        args         = ["autoscaler", "--data", "/alloc/data"]
        network_mode = "host"
      }
      env {
        STOKER_NATS                  = "nats://127.0.0.1:4222"
        STOKER_NATS_USER             = "autoscaler"
        STOKER_WORKER_NATS_USER      = "worker"
        STOKER_WORKER_NATS           = "nats://${attr.unique.network.ip-address}:4222"
        STOKER_NOMAD_WORKER_VARIABLE = "nomad/jobs"
        NOMAD_ADDR                   = "http://127.0.0.1:4646"
      }
      template {
        destination = "${NOMAD_SECRETS_DIR}/passwords.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/stoker/stoker/autoscaler" -}}
          STOKER_NATS_PASSWORD={{ .password.Value | toJSON }}
          NOMAD_TOKEN={{ .nomad_token.Value | toJSON }}
          {{ end }}
        EOT
      }
    }
  }
}
