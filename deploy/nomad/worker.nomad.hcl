# A worker as the Nomad launcher registers it (services/autoscaler/launchers/nomad.py), for starting one by hand:
#
#   nomad job run -var image=stoker-worker-llamacpp -var nats=nats://10.0.0.1:4222 worker.nomad.hcl
#
# The password is the Nomad variable that stoker.nomad.hcl describes; with Vault see there too.

variable "name" {
  type        = string
  default     = "by-hand"
  description = "Name of the worker; the launcher gives each replica its own."
}
variable "image" {
  type        = string
  description = "Image with Stoker and an engine: target `worker` of deploy/Dockerfile."
}
variable "profile" {
  type        = string
  default     = "cpu"
  description = "Resource profile that the worker is of."
}
variable "spec" {
  type        = string
  default     = ""
  description = "Serve only this spec, model/spec; any model of the profile without one."
}
variable "nats" {
  type        = string
  description = "NATS server URLs, separated by commas."
}
variable "nats_user" {
  type        = string
  default     = "worker"
  description = "NATS user of deploy/nats/nats.conf."
}
variable "password_variable" {
  type        = string
  default     = "nomad/jobs"
  description = "Nomad variable with the item stoker_worker_password."
}
variable "datacenters" {
  type        = list(string)
  default     = ["*"]
  description = "Where it may run."
}
variable "cpu_mhz" {
  type        = number
  default     = 2000
  description = "MHz; the launcher asks for 1000 per core."
}
variable "memory_mb" {
  type        = number
  default     = 2048
  description = "Memory in MB."
}
variable "gpus" {
  type        = number
  default     = 0
  description = "NVIDIA GPUs."
}

variable "weights" {
  type        = list(string)
  default     = []
  description = "Files and folders of weights on the node; they are where they are, and read only."
}

job "stoker-worker" {
  id          = "stoker-${var.name}"
  type        = "service"
  datacenters = var.datacenters

  group "worker" {
    count = 1

    # The autoscaler decides what happens after an end; Nomad does not start it again by itself.
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "worker" {
      driver       = "docker"
      kill_timeout = "600s"

      config {
        image        = var.image
        command      = "python"
        args         = ["-P", "-m", "stoker.services.worker", "--name", var.name, "--profile", var.profile, "--spec", var.spec]
        network_mode = "host"
        volumes      = [for path in var.weights : "${path}:${path}:ro"]
      }

      env {
        STOKER_NATS      = var.nats
        STOKER_NATS_USER = var.nats_user
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/passwords.env"
        env         = true
        change_mode = "noop" # what runs goes on: only a new worker needs the new one
        data        = <<-EOT
          {{ with nomadVar "${var.password_variable}" -}}
          STOKER_NATS_PASSWORD={{ .stoker_worker_password.Value | toJSON }}
          {{ end }}
        EOT
      }

      resources {
        cpu    = var.cpu_mhz
        memory = var.memory_mb

        dynamic "device" {
          for_each = var.gpus > 0 ? [var.gpus] : []
          labels   = ["nvidia/gpu"]
          content {
            count = device.value
          }
        }
      }
    }
  }
}
